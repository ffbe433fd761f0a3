{{- /*
What is put into pods, written once: injector.json holds it as JSON, policy mode as CEL.
What depends on the pod is added by the injector, or by the policy.
*/}}

{{- define "emissions-sidecar.sidecar.transport" -}}
{{- $collector := or .Values.sidecar.collectorUrl (include "emissions-sidecar.collector.deployed" .) -}}
{{- $transport := .Values.sidecar.transport | default (ternary "collector" "none" (not (empty $collector))) -}}
{{- if and (eq $transport "collector") (not $collector) -}}
{{- fail "sidecar.transport is collector, and there is none: set azure.storage.accountUrl, or collector.backend=directory, or sidecar.collectorUrl" -}}
{{- end -}}
{{- if and (eq $transport "blob") (not .Values.azure.storage.accountUrl) -}}
{{- fail "sidecar.transport is blob, and there is no storage: set azure.storage.accountUrl" -}}
{{- end -}}
{{- $transport -}}
{{- end }}

{{- /* A quantity of Kubernetes as a number. */}}
{{- define "emissions-sidecar.amount" -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (float64 $number) (index $units (trimPrefix $number .)) -}}
{{- end }}

{{- define "emissions-sidecar.sidecar.memory" -}}
{{- $transport := include "emissions-sidecar.sidecar.transport" . -}}
{{- .Values.sidecar.resources.memory | default (ternary "128Mi" "64Mi" (eq $transport "blob")) -}}
{{- end }}

{{- /* What is refused here would hold up, or end, every pod that has the sidecar. */}}
{{- define "emissions-sidecar.sidecar.check" -}}
{{- $sidecar := .Values.sidecar -}}
{{- $size := include "emissions-sidecar.amount" $sidecar.volume.sizeLimit | float64 -}}
{{- if gt (include "emissions-sidecar.amount" $sidecar.volume.limit | float64) (mulf 0.8 $size) -}}
{{- fail (printf "sidecar.volume.limit (%s) must be at most 80 %% of sidecar.volume.sizeLimit (%s): Kubernetes evicts a pod whose volume is fuller than that" $sidecar.volume.limit $sidecar.volume.sizeLimit) -}}
{{- end -}}
{{- if lt (include "emissions-sidecar.amount" (toString $sidecar.resources.cpu) | float64) 0.01 -}}
{{- fail (printf "sidecar.resources.cpu is %s; give 10m or more" (toString $sidecar.resources.cpu)) -}}
{{- end -}}
{{- $memory := include "emissions-sidecar.sidecar.memory" . -}}
{{- if lt (include "emissions-sidecar.amount" $memory | float64) 33554432.0 -}}
{{- fail (printf "sidecar.resources.memory is %s; the sidecar does not start with less than 32Mi" $memory) -}}
{{- end -}}
{{- $named := or $sidecar.image.registry .Values.image.registry (contains "/" $sidecar.image.repository) -}}
{{- if and (not $named) (or (eq .Values.injection.mode "policy") (contains "/" .Values.image.repository)) -}}
{{- fail (printf "nodes would look for the sidecar's image %s where their container runtime looks, and pods that cannot pull it do not start: set image.registry, or sidecar.image.registry" $sidecar.image.repository) -}}
{{- end -}}
{{- end }}

{{- define "emissions-sidecar.sidecar.container" -}}
{{- include "emissions-sidecar.sidecar.check" . -}}
{{- $text := include "emissions-sidecar.sidecar.containerText" . -}}
{{- /* A name that comes twice would end the webhook. Those of the pattern are added pod by pod. */ -}}
{{- $times := dict -}}
{{- range ($text | fromYaml).env }}{{ $_ := set $times .name (add1 (index $times .name | default 0)) }}{{ end -}}
{{- $given := list -}}
{{- range .Values.sidecar.extraEnv -}}
{{- if has .name $given }}{{ fail (printf "sidecar.extraEnv: %s is given twice; keep one" .name) }}{{ end -}}
{{- $given = append $given .name -}}
{{- end -}}
{{- range $given -}}
{{- if or (gt (index $times .) 1) (regexMatch "^(EMISSIONS_REQUESTS_(CPU|MEMORY|GPU)|NVIDIA_.*|POD_WORKLOAD|AZUREML_.*)$" .) -}}
{{- fail (printf "sidecar.extraEnv: %s is the chart's own to set; remove it" .) -}}
{{- end -}}
{{- end -}}
{{- $text -}}
{{- end }}

{{- define "emissions-sidecar.sidecar.containerText" -}}
{{- $transport := include "emissions-sidecar.sidecar.transport" . -}}
{{- $memory := include "emissions-sidecar.sidecar.memory" . -}}
name: emissions-sidecar
image: {{ include "emissions-sidecar.image" (dict "root" . "image" .Values.sidecar.image) | quote }}
imagePullPolicy: {{ .Values.sidecar.image.pullPolicy }}
restartPolicy: Always
args: [run]
env:
  - name: EMISSIONS_LISTEN
    value: 0.0.0.0:9877
  - name: EMISSIONS_LOG_FORMAT
    value: {{ .Values.sidecar.logFormat }}
  - name: EMISSIONS_TRANSPORT
    value: {{ $transport }}
  {{- if eq $transport "collector" }}
  - name: EMISSIONS_COLLECTOR_URL
    value: {{ include "emissions-sidecar.collector.url" . | quote }}
  {{- else if eq $transport "blob" }}
  - name: EMISSIONS_BLOB_ACCOUNT_URL
    value: {{ .Values.azure.storage.accountUrl | quote }}
  - name: EMISSIONS_BLOB_CONTAINER
    value: {{ .Values.azure.storage.container | quote }}
  {{- end }}
  - name: EMISSIONS_VOLUME
    value: /var/run/emissions
  - name: EMISSIONS_VOLUME_LIMIT
    value: {{ .Values.sidecar.volume.limit | quote }}
  {{- if ne .Values.sidecar.gpu.source "auto" }}
  - name: EMISSIONS_GPU_SOURCE
    value: {{ .Values.sidecar.gpu.source }}
  {{- end }}
  {{- if ne (int .Values.sidecar.gpu.replicas) 1 }}
  - name: EMISSIONS_GPU_REPLICAS
    value: {{ .Values.sidecar.gpu.replicas | quote }}
  {{- end }}
  - name: EMISSIONS_INTERVAL
    value: {{ .Values.sidecar.interval | quote }}
  {{- with .Values.sidecar.clusterName }}
  - name: EMISSIONS_CLUSTER
    value: {{ . | quote }}
  {{- end }}
  {{- range $name, $value := include "emissions-sidecar.intensity.settings" . | fromYaml }}
  - name: EMISSIONS_INTENSITY_{{ upper $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- if .Values.nodeMeter.enabled }}
  - name: EMISSIONS_NODE_METER_URL
    value: {{ include "emissions-sidecar.nodeMeter.url" . | quote }}
  {{- end }}
  {{- if or .Values.attribution.kubelet .Values.attribution.metricsApi }}
  - name: EMISSIONS_KUBERNETES_TOKEN_FILE
    value: /var/run/secrets/emissions-api/token
  - name: EMISSIONS_KUBERNETES_CA_FILE
    value: /var/run/secrets/emissions-api/ca.crt
  {{- end }}
  {{- /* Left away again where a pod asks for no GPU: a hardened node refuses such a container. */}}
  {{- if eq .Values.sidecar.gpu.source "nvml" }}
  - name: NVIDIA_VISIBLE_DEVICES
    value: all
  - name: NVIDIA_DRIVER_CAPABILITIES
    value: utility
  {{- end }}
  {{- range .Values.sidecar.extraEnv }}
  - {{ toJson . }}
  {{- end }}
  {{- range $pair := list
        (list "POD_NAME" "metadata.name")
        (list "POD_NAMESPACE" "metadata.namespace")
        (list "POD_UID" "metadata.uid")
        (list "NODE_NAME" "spec.nodeName")
        (list "HOST_IP" "status.hostIP")
        (list "NODE_REGION" "metadata.labels['topology.kubernetes.io/region']") }}
  - name: {{ index $pair 0 }}
    valueFrom:
      fieldRef:
        fieldPath: {{ index $pair 1 }}
  {{- end }}
resources:
  requests:
    cpu: {{ .Values.sidecar.resources.cpu | toString | quote }}
    memory: {{ $memory | quote }}
  limits:
    cpu: {{ .Values.sidecar.resources.cpu | toString | quote }}
    memory: {{ $memory | quote }}
livenessProbe:
  httpGet:
    path: /healthz
    port: 9877
  periodSeconds: 30
  timeoutSeconds: 5
  failureThreshold: 5
lifecycle:
  preStop:
    httpGet:
      path: /terminating
      port: 9877
securityContext:
  {{- include "emissions-sidecar.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: emissions
    mountPath: /var/run/emissions
  {{- if include "emissions-sidecar.sidecar.hasToken" . }}
  - name: emissions-token
    mountPath: /var/run/secrets/emissions
    readOnly: true
  {{- end }}
  {{- if or .Values.attribution.kubelet .Values.attribution.metricsApi }}
  - name: emissions-api
    mountPath: /var/run/secrets/emissions-api
    readOnly: true
  {{- end }}
  - name: emissions-podinfo
    mountPath: /etc/podinfo
    readOnly: true
{{- end }}

{{- /* Collector and node meter know a pod by this token. */}}
{{- define "emissions-sidecar.sidecar.hasToken" -}}
{{- if or .Values.nodeMeter.enabled (eq (include "emissions-sidecar.sidecar.transport" .) "collector") }}true{{ end }}
{{- end }}

{{- define "emissions-sidecar.sidecar.volumes" -}}
- name: emissions
  emptyDir:
    sizeLimit: {{ .Values.sidecar.volume.sizeLimit | quote }}
{{- if include "emissions-sidecar.sidecar.hasToken" . }}
- name: emissions-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: emissions-collector
          expirationSeconds: 3600
{{- end }}
{{- if or .Values.attribution.kubelet .Values.attribution.metricsApi }}
- name: emissions-api
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
          optional: true
{{- end }}
- name: emissions-podinfo
  downwardAPI:
    items:
      - path: labels
        fieldRef:
          fieldPath: metadata.labels
      - path: annotations
        fieldRef:
          fieldPath: metadata.annotations
{{- end }}

{{- define "emissions-sidecar.sidecar.json" -}}
{{- dict
      "container" (include "emissions-sidecar.sidecar.container" . | fromYaml)
      "volumes" (include "emissions-sidecar.sidecar.volumes" . | fromYamlArray)
      "mountPath" "/var/run/emissions"
      "version" .Chart.AppVersion | toPrettyJson -}}
{{- end }}

{{- /* Namespaces that neither webhooks nor policy touch; the last two as AKS itself adds them. */}}
{{- define "emissions-sidecar.namespaceExpressions" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    {{- range concat (list "kube-system" "kube-public" "kube-node-lease") .Values.injection.excludedNamespaces | uniq }}
    - {{ . | quote }}
    {{- end }}
- key: control-plane
  operator: NotIn
  values: ["true"]
- key: kubernetes.azure.com/managedby
  operator: NotIn
  values: ["aks"]
{{- end }}

{{- /* This release's own pods never wait for the sidecar. */}}
{{- define "emissions-sidecar.podExpressions" -}}
- key: app.kubernetes.io/part-of
  operator: NotIn
  values: [emissions-sidecar]
{{- end }}
