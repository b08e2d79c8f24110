{{- define "onionbalance-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of most objects. It has at most 52 characters, to leave room for a suffix and a pod's hash. */}}
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

{{/* The labels that select the operator's pods. Never change them: a Deployment's selector is immutable. */}}
{{- define "onionbalance-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "onionbalance-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The labels of all objects. The user's labels cannot override ours. */}}
{{- define "onionbalance-operator.labels" -}}
{{- $labels := include "onionbalance-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- merge $labels .Values.commonLabels | toYaml }}
{{- end }}

{{/* The labels of the operator's pod. They contain no versions, so that an upgrade that changes nothing else does not
     restart the pod. */}}
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

{{/* An image reference, built from a list of repository, tag and digest. */}}
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
{{- if not (or .tag .digest) }}{{ fail "tor.image: set the tag or the digest" }}{{ end }}
{{- include "onionbalance-operator.reference" (list .repository .tag .digest) }}
{{- end }}
{{- end }}

{{/* The data plane's image; empty if it is the operator's image. A tag in dataPlane.image also takes precedence over the
     operator's digest. */}}
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

{{/* Removes the CRD's validation rules from the given map. Before Kubernetes 1.28, servers do not know the rules' field
     `fieldPath` (before 1.27 `messageExpression`, before 1.25 any rules), and Helm rejects fields that the server does not
     know. */}}
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
