{{- define "emissions-sidecar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 43 | trimSuffix "-" -}}
{{- end }}

{{- /* At most 43 characters, so that the longest suffix still makes a legal name. */}}
{{- define "emissions-sidecar.fullname" -}}
{{- $name := include "emissions-sidecar.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $both | trunc 43 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels of what a component consists of: (dict "root" $ "component" "webhook"). */}}
{{- define "emissions-sidecar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "emissions-sidecar.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: emissions-sidecar
{{- end }}

{{- define "emissions-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ include "emissions-sidecar.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* (dict "root" $ "image" .Values.sidecar.image) */}}
{{- define "emissions-sidecar.image" -}}
{{- $registry := .image.registry | default .root.Values.image.registry -}}
{{- $name := ternary .image.repository (printf "%s/%s" (trimSuffix "/" $registry) .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- /* The key of a component's values: node-meter has nodeMeter. */}}
{{- define "emissions-sidecar.key" -}}
{{- .component | replace "-" "_" | camelcase | untitle -}}
{{- end }}

{{- define "emissions-sidecar.serviceAccountName" -}}
{{- $account := (index .root.Values (include "emissions-sidecar.key" .)).serviceAccount -}}
{{- $own := printf "%s-%s" (include "emissions-sidecar.fullname" .root) .component -}}
{{- $account.name | default (ternary $own "default" $account.create) -}}
{{- end }}

{{- /* Client ID of a component's managed identity; empty where there is none. */}}
{{- define "emissions-sidecar.clientId" -}}
{{- if eq .component "collector" }}{{ .root.Values.azure.clientId }}
{{- else if eq .component "report" }}{{ .root.Values.report.clientId | default .root.Values.azure.clientId }}
{{- else if and (eq .component "node-meter") (eq (include "emissions-sidecar.sidecar.transport" .root) "blob") }}{{ .root.Values.azure.clientId }}
{{- end }}
{{- end }}

{{- define "emissions-sidecar.serviceAccount" -}}
{{- $account := (index .root.Values (include "emissions-sidecar.key" .)).serviceAccount -}}
{{- $annotations := dict -}}
{{- with include "emissions-sidecar.clientId" . }}{{ $_ := set $annotations "azure.workload.identity/client-id" . }}
{{- with $.root.Values.azure.tenantId }}{{ $_ := set $annotations "azure.workload.identity/tenant-id" . }}{{ end }}
{{- end -}}
{{- $annotations = merge (deepCopy $account.annotations) $annotations -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "emissions-sidecar.serviceAccountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "emissions-sidecar.labels" . | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- /* Metadata of a component's pods: (dict "root" $ "component" … "annotations" (dict …)). */}}
{{- define "emissions-sidecar.podMetadata" -}}
{{- $values := index .root.Values (include "emissions-sidecar.key" .) -}}
{{- with merge (deepCopy $values.podAnnotations) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $labels := include "emissions-sidecar.labels" . | fromYaml }}
{{- if include "emissions-sidecar.clientId" . }}{{ $_ := set $labels "azure.workload.identity/use" "true" }}{{ end }}
labels:
  {{- merge $labels $values.podLabels | toYaml | nindent 2 }}
{{- end }}

{{- /* What all pods of this release have in common. */}}
{{- define "emissions-sidecar.podSpec" -}}
{{- $values := index .root.Values (include "emissions-sidecar.key" .) -}}
serviceAccountName: {{ include "emissions-sidecar.serviceAccountName" . }}
automountServiceAccountToken: {{ or (has .component (list "collector" "node-meter")) (and (eq .component "report") .root.Values.report.trackedPods) }}
enableServiceLinks: false
securityContext:
  {{- include "emissions-sidecar.podSecurity" . | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- include "emissions-sidecar.placement" $values }}
{{- if hasKey $values "topologySpreadConstraints" }}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
{{- range $key := ternary (list "kubernetes.io/hostname" "topology.kubernetes.io/zone") (list "kubernetes.io/hostname") (eq .component "collector") }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "emissions-sidecar.selectorLabels" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where pods run; the images are for Linux, and pools of Windows nodes have no taint. */}}
{{- define "emissions-sidecar.placement" }}
nodeSelector:
  {{- merge (deepCopy .nodeSelector) (dict "kubernetes.io/os" "linux") | toYaml | nindent 2 }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "emissions-sidecar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "emissions-sidecar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "emissions-sidecar.collector.backendConfigured" -}}
{{- if or (eq .Values.collector.backend "directory") .Values.azure.storage.accountUrl }}true{{ end }}
{{- end }}

{{- define "emissions-sidecar.collector.deployed" -}}
{{- if and .Values.collector.enabled (include "emissions-sidecar.collector.backendConfigured" .) }}true{{ end }}
{{- end }}

{{- define "emissions-sidecar.collector.url" -}}
{{- .Values.sidecar.collectorUrl | default (printf "http://%s-collector.%s.svc" (include "emissions-sidecar.fullname" .) .Release.Namespace) -}}
{{- end }}

{{- define "emissions-sidecar.collector.claim" -}}
{{- .Values.collector.directory.existingClaim | default (printf "%s-records" (include "emissions-sidecar.fullname" .)) -}}
{{- end }}

{{- define "emissions-sidecar.collector.keySecret" -}}
{{- $own := printf "%s-handover" (include "emissions-sidecar.fullname" .) -}}
{{- ternary .Values.collector.handoverKey.existingSecret $own (eq .Values.collector.handoverKey.mode "existing") -}}
{{- end }}

{{- define "emissions-sidecar.nodeMeter.url" -}}
http://{{ include "emissions-sidecar.fullname" . }}-node-meter.{{ .Release.Namespace }}.svc
{{- end }}
