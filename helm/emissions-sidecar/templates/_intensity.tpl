{{- /* Carbon intensity hour by hour: who is asked, and what for. Nothing is rendered for averages of a year. */}}

{{- define "emissions-sidecar.intensity.check" -}}
{{- $intensity := .Values.intensity -}}
{{- $source := $intensity.source -}}
{{- $asked := eq (include "emissions-sidecar.sidecar.transport" .) "collector" -}}
{{- $own := include "emissions-sidecar.collector.deployed" . -}}
{{- if and (has $source (list "electricity-maps" "schedule")) (not $asked) -}}
{{- fail (printf "intensity.source is %s: the collector would tell it to the sidecars, and sidecar.transport is not collector" $source) -}}
{{- end -}}
{{- if and (eq $source "electricity-maps") $own (not $intensity.existingSecret) -}}
{{- fail "intensity.source is electricity-maps: set intensity.existingSecret to the Secret with the entry token" -}}
{{- end -}}
{{- if and (eq $source "schedule") $own (not $intensity.existingConfigMap) -}}
{{- fail "intensity.source is schedule: set intensity.existingConfigMap to the ConfigMap with the entry schedule" -}}
{{- end -}}
{{- if and (eq $source "carbon-aware") (not $intensity.url) (or $own (not $asked)) -}}
{{- fail "intensity.source is carbon-aware: set intensity.url to the address of your Carbon Aware SDK Web API" -}}
{{- end -}}
{{- if and (has $source (list "catalogue" "schedule")) (or $intensity.zone $intensity.url) -}}
{{- fail (printf "intensity.source is %s, which has neither zone nor url; remove intensity.zone and intensity.url" $source) -}}
{{- end -}}
{{- end }}

{{- /* Settings of what meters, as a mapping of names without EMISSIONS_INTENSITY_. */}}
{{- define "emissions-sidecar.intensity.settings" -}}
{{- include "emissions-sidecar.intensity.check" . -}}
{{- $intensity := .Values.intensity -}}
{{- if ne $intensity.source "catalogue" -}}
source: {{ $intensity.source }}
{{- with $intensity.zone }}
zone: {{ . | quote }}
{{- end }}
{{- if ne $intensity.refresh "1h" }}
refresh: {{ $intensity.refresh }}
{{- end }}
{{- if and $intensity.url (ne (include "emissions-sidecar.sidecar.transport" .) "collector") }}
url: {{ $intensity.url | quote }}
{{- end }}
{{- end -}}
{{- end }}

{{- /* Arguments of the collector. */}}
{{- define "emissions-sidecar.intensity.collectorArgs" -}}
{{- $intensity := .Values.intensity -}}
{{- if ne $intensity.source "catalogue" -}}
- --intensity-source={{ $intensity.source }}
{{- if eq .Values.collector.backend "directory" }}
- --intensity-cache=/records/intensity
{{- end }}
- --intensity-refresh={{ $intensity.refresh }}
{{- with $intensity.zone }}
- {{ printf "--intensity-zone=%s" . | quote }}
{{- end }}
{{- with $intensity.url }}
- {{ printf "--intensity-url=%s" . | quote }}
{{- end }}
{{- if eq $intensity.source "electricity-maps" }}
- --intensity-token-file=/etc/emissions/intensity/token
{{- else if eq $intensity.source "schedule" }}
- --intensity-file=/etc/emissions/intensity/schedule
{{- end }}
{{- end -}}
{{- end }}

{{- /* What the collector reads: the token, or the schedule. */}}
{{- define "emissions-sidecar.intensity.collectorVolume" -}}
{{- if eq .Values.intensity.source "electricity-maps" -}}
name: intensity
secret:
  secretName: {{ .Values.intensity.existingSecret }}
  items: [{key: token, path: token}]
  defaultMode: 0440
{{- else if eq .Values.intensity.source "schedule" -}}
name: intensity
configMap:
  name: {{ .Values.intensity.existingConfigMap }}
  items: [{key: schedule, path: schedule}]
{{- end -}}
{{- end }}

{{- /* The port of a service at an address of its own; 443 is among networkPolicy.egressPorts. */}}
{{- define "emissions-sidecar.intensity.port" -}}
{{- with .Values.intensity.url -}}
{{- $given := regexFind ":[0-9]+(/|$)" (regexReplaceAll "^https?://" . "") | trimAll ":/" -}}
{{- $port := $given | default (ternary "80" "443" (hasPrefix "http://" .)) | int -}}
{{- if ne $port 443 }}{{ $port }}{{ end -}}
{{- end -}}
{{- end }}
