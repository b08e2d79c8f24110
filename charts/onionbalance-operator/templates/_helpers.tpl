{{- define "onionbalance-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of most objects. At most 52 characters, so that a suffix and a pod's hash find room. */}}
{{- define "onionbalance-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Immutable in a Deployment, so never to be changed. */}}
{{- define "onionbalance-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "onionbalance-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of the user's cannot take the place of ours. */}}
{{- define "onionbalance-operator.labels" -}}
{{- $labels := include "onionbalance-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- merge $labels .Values.commonLabels | toYaml }}
{{- end }}

{{/* Without the versions: an upgrade that changes nothing else does not restart the pod. */}}
{{- define "onionbalance-operator.podLabels" -}}
{{- $labels := include "onionbalance-operator.selectorLabels" . | fromYaml }}
{{- merge $labels .Values.podLabels .Values.commonLabels | toYaml }}
{{- end }}

{{- define "onionbalance-operator.testLabels" -}}
app.kubernetes.io/name: {{ include "onionbalance-operator.name" . | quote }}
app.kubernetes.io/instance: {{ printf "%s-test" .Release.Name | trunc 63 | quote }}
{{- end }}

{{- define "onionbalance-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "onionbalance-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image's reference: list of (repository, tag, digest). */}}
{{- define "onionbalance-operator.reference" -}}
{{- $repository := index . 0 }}{{ $tag := index . 1 }}{{ $digest := index . 2 }}
{{- if $digest }}{{ printf "%s@%s" $repository $digest }}{{ else }}{{ printf "%s:%s" $repository $tag }}{{ end }}
{{- end }}

{{- define "onionbalance-operator.image" -}}
{{- with .Values.image }}
{{- include "onionbalance-operator.reference" (list .repository (default $.Chart.AppVersion .tag) .digest) }}
{{- end }}
{{- end }}

{{- define "onionbalance-operator.torImage" -}}
{{- with .Values.tor.image }}
{{- if not (or .tag .digest) }}{{ fail "tor.image: set the tag, or the digest" }}{{ end }}
{{- include "onionbalance-operator.reference" (list .repository .tag .digest) }}
{{- end }}
{{- end }}

{{/* Empty where it is the operator's. A tag of its own also goes before the operator's digest. */}}
{{- define "onionbalance-operator.dataPlaneImage" -}}
{{- $own := .Values.image }}
{{- with .Values.dataPlane.image }}
{{- if or .repository .tag .digest }}
{{- $digest := .digest }}
{{- if not (or .tag .digest) }}{{ $digest = $own.digest }}{{ end }}
{{- $tag := default (default $.Chart.AppVersion $own.tag) .tag }}
{{- include "onionbalance-operator.reference" (list (default $own.repository .repository) $tag $digest) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Drops the CRD's validation rules from what it is given: servers before 1.25 do not know them, and Helm refuses them there. */}}
{{- define "onionbalance-operator.withoutRules" -}}
{{- $_ := unset . "x-kubernetes-validations" }}
{{- range $inner := . }}
{{- if kindIs "map" $inner }}
{{- include "onionbalance-operator.withoutRules" $inner }}
{{- else if kindIs "slice" $inner }}
{{- range $inner }}
{{- if kindIs "map" . }}
{{- include "onionbalance-operator.withoutRules" . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
