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

{{/* The namespace of the operator. */}}
{{- define "onionbalance-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* The metadata of an object, built from a list: the root context, the name, the namespace (empty: none), own labels and
     own annotations. The user's common labels and annotations cannot override ours. */}}
{{- define "onionbalance-operator.metadata" -}}
{{- $root := index . 0 }}
{{- $metadata := dict "name" (index . 1) }}
{{- with index . 2 }}{{ $_ := set $metadata "namespace" (toString .) }}{{ end }}
{{- $_ := set $metadata "labels" (merge (include "onionbalance-operator.labels" $root | fromYaml) (index . 3)) }}
{{- with merge (dict) (index . 4) $root.Values.commonAnnotations }}{{ $_ := set $metadata "annotations" . }}{{ end }}
{{- toYaml $metadata }}
{{- end }}

{{- define "onionbalance-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "onionbalance-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image reference, built from a list: the root context, the repository, the tag and the digest. The value
     global.imageRegistry replaces the registry at the beginning of the repository. */}}
{{- define "onionbalance-operator.reference" -}}
{{- $repository := index . 1 }}{{ $tag := index . 2 }}{{ $digest := index . 3 }}
{{- with (index . 0).Values.global.imageRegistry }}
{{- $parts := splitList "/" $repository }}
{{- $first := first $parts }}
{{- if and (rest $parts) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) }}{{ $parts = rest $parts }}{{ end }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) }}
{{- end }}
{{- if $digest }}{{ printf "%s@%s" $repository $digest }}{{ else }}{{ printf "%s:%s" $repository $tag }}{{ end }}
{{- end }}

{{- define "onionbalance-operator.image" -}}
{{- with .Values.image }}
{{- include "onionbalance-operator.reference" (list $ .repository (default $.Chart.AppVersion .tag) .digest) }}
{{- end }}
{{- end }}

{{- define "onionbalance-operator.torImage" -}}
{{- with .Values.tor.image }}
{{- if not (or .tag .digest) }}{{ fail "tor.image: set the tag or the digest" }}{{ end }}
{{- include "onionbalance-operator.reference" (list $ .repository .tag .digest) }}
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
{{- include "onionbalance-operator.reference" (list $ (default $own.repository .repository) $tag $digest) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty if the tag of the image moves: a later image in the registry can have the same tag. */}}
{{- define "onionbalance-operator.moves" -}}
{{- if and (or (hasSuffix ":dev" .) (hasSuffix ":latest" .)) (not (hasPrefix "localhost/" .)) }}true{{ end }}
{{- end }}

{{/* The pull policy of the operator's container. */}}
{{- define "onionbalance-operator.pullPolicy" -}}
{{- $moves := include "onionbalance-operator.moves" (include "onionbalance-operator.image" .) }}
{{- default (ternary "Always" "IfNotPresent" (not (empty $moves))) .Values.image.pullPolicy }}
{{- end }}

{{/* The pull policy for the pods of services; empty: the operator's default. */}}
{{- define "onionbalance-operator.dataPlanePullPolicy" -}}
{{- $images := list (include "onionbalance-operator.torImage" .) (default (include "onionbalance-operator.image" .) (include "onionbalance-operator.dataPlaneImage" .)) }}
{{- $policy := .Values.dataPlane.imagePullPolicy }}
{{- range $images }}
{{- if include "onionbalance-operator.moves" . }}{{ $policy = default "Always" $policy }}{{ end }}
{{- end }}
{{- $policy }}
{{- end }}

{{/* The image pull secrets of the operator's pod and of the test pod. A parent chart may list names instead of maps. */}}
{{- define "onionbalance-operator.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range concat .Values.imagePullSecrets (default list .Values.global.imagePullSecrets) }}
{{- $secrets = append $secrets (ternary . (dict "name" .) (kindIs "map" .)) }}
{{- end }}
{{- with uniq $secrets }}{{ dict "imagePullSecrets" . | toYaml }}{{ end }}
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
