{{- /*
A value as a CEL literal: (dict "value" … "type" "Object.spec.initContainers" "indent" 2).
Kubernetes wants an object's type spelled out, by its path from the pod. A map of one entry "$cel" is an
expression; maps of quantities are plain maps. What is longer than a line is broken into several.
*/}}
{{- define "emissions-sidecar.cel" -}}
{{- $line := include "emissions-sidecar.cel.line" . -}}
{{- $indent := .indent | int -}}
{{- if le (add (len $line) $indent) 110 -}}
{{- $line -}}
{{- else if kindIs "slice" .value -}}
{{- $items := list -}}
{{- range .value -}}
{{- $items = append $items (include "emissions-sidecar.cel" (dict "value" . "type" $.type "indent" (add $indent 2))) -}}
{{- end -}}
[{{ printf "\n%s" (repeat (add $indent 2 | int) " ") }}{{ join (printf ",\n%s" (repeat (add $indent 2 | int) " ")) $items }}{{ printf "\n%s" (repeat $indent " ") }}]
{{- else if kindIs "map" .value -}}
{{- $items := list -}}
{{- range $name, $item := .value -}}
{{- $items = append $items (printf "%s: %s" $name (include "emissions-sidecar.cel" (dict "value" $item "type" (printf "%s.%s" $.type $name) "indent" (add $indent 2)))) -}}
{{- end -}}
{{ .type }}{ {{- printf "\n%s" (repeat (add $indent 2 | int) " ") }}{{ join (printf ",\n%s" (repeat (add $indent 2 | int) " ")) $items }}{{ printf "\n%s" (repeat $indent " ") -}} }
{{- else -}}
{{- $line -}}
{{- end -}}
{{- end }}

{{- define "emissions-sidecar.cel.line" -}}
{{- if kindIs "slice" .value -}}
{{- $items := list -}}
{{- range .value -}}
{{- $items = append $items (include "emissions-sidecar.cel.line" (dict "value" . "type" $.type)) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if not (kindIs "map" .value) -}}
{{- toJson .value -}}
{{- else if hasKey .value "$cel" -}}
{{- index .value "$cel" -}}
{{- else -}}
{{- $items := list -}}
{{- $isMap := has (splitList "." .type | last) (list "requests" "limits") -}}
{{- range $name, $item := .value -}}
{{- $item = include "emissions-sidecar.cel.line" (dict "value" $item "type" (printf "%s.%s" $.type $name)) -}}
{{- $items = append $items (printf "%s: %s" (ternary (quote $name) $name $isMap) $item) -}}
{{- end -}}
{{- ternary "" .type $isMap }}{ {{- join ", " $items -}} }
{{- end -}}
{{- end }}

{{- /*
What the scheduler keeps of a resource: the larger of what containers and native sidecars request together,
and of what an init container requests with the native sidecars before it. (list "initCpu" "containersCpu")
are variables with a list of whole numbers each.
*/}}
{{- define "emissions-sidecar.policy.effective" -}}
(variables.initIndexes.map(i, variables.{{ first . }}[i] + variables.initIndexes
.filter(j, j < i && variables.initStays[j]).map(j, variables.{{ first . }}[j]).sum())
+ [variables.{{ last . }}.sum() + variables.initIndexes.filter(j, variables.initStays[j])
.map(j, variables.{{ first . }}[j]).sum()]).max()
{{- end }}

{{- /* Amounts of CPU (millicores), memory (bytes) or GPUs (28ths) of a list of containers, as a CEL list. */}}
{{- define "emissions-sidecar.policy.cpu" -}}
{{ . }}.map(c, c.?resources.orValue({}))
.map(r, quantity(r.?requests[?"cpu"].orValue(r.?limits[?"cpu"].orValue("0"))))
.map(q, int(q.asApproximateFloat() * 1000.0 + 0.5))
{{- end }}
{{- define "emissions-sidecar.policy.memory" -}}
{{ . }}.map(c, c.?resources.orValue({}))
.map(r, quantity(r.?requests[?"memory"].orValue(r.?limits[?"memory"].orValue("0"))))
.map(q, q.isInteger() ? q.asInteger() : int(q.asApproximateFloat()) + 1)
{{- end }}
{{- define "emissions-sidecar.policy.gpus" -}}
{{ . }}.map(c, {{ include "emissions-sidecar.policy.extended" . }}.map(a, quantity(a[1]).asInteger()
* (a[0] in ["nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu"] ? 28
: !a[0].matches("^nvidia[.]com/mig-[1-9]g[.].+$") ? 0
: int(a[0].substring(15, 16))
* (a[0].matches("^nvidia[.]com/mig-(1g[.]6gb|2g[.]12gb|4g[.]24gb)([.].*)?$") ? 7 : 4))).sum())
{{- end }}

{{- /* What a container c has of vendors of GPUs, as pairs of name and amount. */}}
{{- define "emissions-sidecar.policy.extended" -}}
(c.?resources.?limits.orValue({}).map(k, [string(k), string(c.resources.limits[k])])
+ c.?resources.?requests.orValue({}).map(k, [string(k), string(c.resources.requests[k])])
.filter(a, !(a[0] in c.?resources.?limits.orValue({}))))
.filter(a, a[0].startsWith("nvidia.com/") || a[0].startsWith("amd.com/") || a[0].startsWith("gpu.intel.com/"))
{{- end }}

{{- /* The container that policy mode adds: what depends on the pod is an expression, or added after it. */}}
{{- define "emissions-sidecar.policy.container" -}}
{{- $container := omit (include "emissions-sidecar.sidecar.container" .root | fromYaml) "livenessProbe" "lifecycle" -}}
{{- $env := list -}}
{{- range $container.env -}}
{{- if not (or (eq .name "EMISSIONS_LISTEN") (hasPrefix "NVIDIA_" .name)) }}{{ $env = append $env . }}{{ end -}}
{{- end -}}
{{- range $pair := list
      (list "EMISSIONS_REQUESTS_CPU" "string(variables.cpuMillicores) + \"m\"")
      (list "EMISSIONS_REQUESTS_MEMORY" "string(variables.memoryBytes)")
      (list "EMISSIONS_REQUESTS_GPU" "variables.gpus") -}}
{{- $env = append $env (dict "name" (first $pair) "value" (dict "$cel" (last $pair))) -}}
{{- end -}}
{{- $mounts := list -}}
{{- range $container.volumeMounts -}}
{{- $mounts = append $mounts (eq .name "emissions" | ternary (merge (dict "name" (dict "$cel" "variables.volume")) .) .) -}}
{{- end -}}
{{- include "emissions-sidecar.cel" (dict "value" (merge (dict "env" $env "volumeMounts" $mounts) $container) "type" "Object.spec.initContainers" "indent" .indent) -}}
{{- end }}
