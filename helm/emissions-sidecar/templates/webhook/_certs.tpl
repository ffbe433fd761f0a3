{{- define "emissions-sidecar.webhook.secretName" -}}
{{- /* Two names: what cert-manager made is not Helm's, and Helm would refuse to take it over. */ -}}
{{- $suffix := ternary "cert" "tls" (eq .Values.webhook.certs.mode "cert-manager") -}}
{{- $own := printf "%s-webhook-%s" (include "emissions-sidecar.fullname" .) $suffix -}}
{{- ternary .Values.webhook.certs.existingSecret $own (eq .Values.webhook.certs.mode "existing") -}}
{{- end }}

{{- /*
Mode helm: tls.crt, tls.key and ca.crt as they are in the cluster's Secret, or new ones, as JSON in base64.
All who need them ask here, and get the same within one rendering: caBundle and Secret cannot differ.
*/}}
{{- define "emissions-sidecar.webhook.certs" -}}
{{- $certs := .Values.webhook.certs -}}
{{- if not (hasKey $certs "rendered") -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "emissions-sidecar.webhook.secretName" .) -}}
{{- $known := pick (dig "data" dict $secret) "tls.crt" "tls.key" "ca.crt" -}}
{{- if ne (len $known) 3 -}}
{{- $service := printf "%s-webhook.%s" (include "emissions-sidecar.fullname" .) .Release.Namespace -}}
{{- $names := list (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) $service -}}
{{- $authority := genCA (printf "%s-ca" (include "emissions-sidecar.fullname" .)) 3650 -}}
{{- /* A common name has 64 characters at most; what is checked are the names of the third list. */ -}}
{{- $pair := genSignedCert (include "emissions-sidecar.fullname" .) nil $names 3650 $authority -}}
{{- $known = dict "tls.crt" (b64enc $pair.Cert) "tls.key" (b64enc $pair.Key) "ca.crt" (b64enc $authority.Cert) -}}
{{- end -}}
{{- $_ := set $certs "rendered" $known -}}
{{- end -}}
{{- toJson $certs.rendered -}}
{{- end }}
