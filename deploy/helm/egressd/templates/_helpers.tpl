{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The labels by which pods are found; they never change. */ -}}
{{- define "egressd.selector" -}}
app.kubernetes.io/name: egressd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "egressd.labels" -}}
{{ include "egressd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "egressd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The ConfigMap with the base policy; "": none. */ -}}
{{- define "egressd.policy" -}}
{{- if .Values.policy.existingConfigMap -}}
{{ .Values.policy.existingConfigMap }}
{{- else if .Values.policy.files -}}
egressd-policy
{{- end -}}
{{- end }}

{{- /* istio=ingressgateway,... */ -}}
{{- define "egressd.gatewaySelector" -}}
{{- $pairs := list -}}
{{- range $k, $v := .Values.gateway.selector -}}
{{- $pairs = append $pairs (printf "%s=%s" $k $v) -}}
{{- end -}}
{{ join "," $pairs }}
{{- end }}

{{- /* Where the metrics are served. */ -}}
{{- define "egressd.statusAddress" -}}
{{- if .Values.metrics.expose }}:15020{{ else }}localhost:15020{{ end -}}
{{- end }}
