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

{{- define "emissions-sidecar.sidecar.container" -}}
{{- $transport := include "emissions-sidecar.sidecar.transport" . -}}
{{- $memory := .Values.sidecar.resources.memory | default (ternary "128Mi" "64Mi" (eq $transport "blob")) -}}
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
  {{- /* The setting would overrule the annotation emissions/interval, so the default is not written. */}}
  {{- if ne .Values.sidecar.interval "15s" }}
  - name: EMISSIONS_INTERVAL
    value: {{ .Values.sidecar.interval | quote }}
  {{- end }}
  {{- with .Values.sidecar.clusterName }}
  - name: EMISSIONS_CLUSTER
    value: {{ . | quote }}
  {{- end }}
  {{- if eq .Values.sidecar.gpu.source "nvml" }}
  - name: NVIDIA_VISIBLE_DEVICES
    value: all
  {{- end }}
  {{- range .Values.sidecar.extraEnv }}
  {{- if regexMatch "^EMISSIONS_(LISTEN|VOLUME|TRANSPORT|REQUESTS_(CPU|MEMORY|GPU))$" .name }}
  {{- fail (printf "sidecar.extraEnv: %s is the chart's own to set; remove it" .name) }}
  {{- end }}
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
    cpu: {{ .Values.sidecar.resources.cpu | quote }}
    memory: {{ $memory | quote }}
  limits:
    cpu: {{ .Values.sidecar.resources.cpu | quote }}
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
  {{- if eq $transport "collector" }}
  - name: emissions-token
    mountPath: /var/run/secrets/emissions
    readOnly: true
  {{- end }}
  - name: emissions-podinfo
    mountPath: /etc/podinfo
    readOnly: true
{{- end }}

{{- define "emissions-sidecar.sidecar.volumes" -}}
- name: emissions
  emptyDir:
    sizeLimit: {{ .Values.sidecar.volume.sizeLimit | quote }}
{{- if eq (include "emissions-sidecar.sidecar.transport" .) "collector" }}
- name: emissions-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: emissions-collector
          expirationSeconds: 3600
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
    - {{ . }}
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
- key: app.kubernetes.io/name
  operator: NotIn
  values: [{{ include "emissions-sidecar.name" . }}]
{{- end }}
