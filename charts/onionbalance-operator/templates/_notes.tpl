{{/* The text that Helm prints after an installation. Named, so that a test can render the text without a cluster. */}}
{{- define "onionbalance-operator.notes" -}}
{{- $namespace := include "onionbalance-operator.namespace" . }}
{{- $name := include "onionbalance-operator.fullname" . }}
The Onionbalance operator watches {{ with .Values.watchNamespaces }}the namespaces {{ join ", " . }}{{ else }}all namespaces{{ end }}.

1. Wait until the operator is running, and test it:

     kubectl rollout status --namespace {{ $namespace }} deployment/{{ $name }}
     helm test --namespace {{ .Release.Namespace }} {{ .Release.Name }}

2. Give one of your Services an onion address. In this example, the Service is called "web" and its port "http":

     kubectl apply --namespace {{ default "default" (first .Values.watchNamespaces) }} -f - <<END
     apiVersion: onionbalance.dev/v1alpha1
     kind: OnionBalancedService
     metadata:
       name: web
     spec:
       ports:
       - {name: http, port: 80, target: {service: {name: web, port: http}}}
       backends:
         replicas: 3
     END

3. Wait until the onion service is published on the Tor network, and read its address:

     kubectl wait --namespace {{ default "default" (first .Values.watchNamespaces) }} --for=condition=Ready --timeout=5m obs/web
     kubectl get --namespace {{ default "default" (first .Values.watchNamespaces) }} obs/web

4. Back up the Secret web-master-key: whoever has this key can serve the address, and without it the address is lost.
{{- $image := include "onionbalance-operator.image" . }}
{{- range list $image (include "onionbalance-operator.torImage" .) }}
{{- if include "onionbalance-operator.moves" . }}

The tag of {{ . }} moves: pods that already run do not notice a new image. Set a version or a digest.
{{- end }}
{{- end }}
{{- if hasPrefix "localhost/" $image }}

The image {{ $image }} does not come from a registry, so it must already be on the nodes.
Otherwise push your images to a registry, and set image.repository and tor.image.repository.
{{- end }}
{{- if not .Values.watchNamespaces }}

The operator watches all namespaces, so its account is as good as a cluster administrator. Set watchNamespaces if you
can, and keep others out of the namespace {{ $namespace }}.
{{- end }}
{{- if not .Values.replicas }}

replicas is 0: changes to objects have no effect until an operator runs. Existing services keep running.
{{- end }}
{{- if not .Values.crds.install }}

crds.install is false: install the CRD yourself (crds/ in the source tree).
{{- else if not .Values.crds.keep }}

crds.keep is false: uninstalling this release deletes all OnionBalancedService objects in the cluster and their pods.
{{- end }}
{{- if not .Values.rbac.create }}

rbac.create is false: grant the ServiceAccount {{ include "onionbalance-operator.serviceAccountName" . }} the permissions in the
chart's files/rules.yaml.
{{- end }}
{{- end }}
