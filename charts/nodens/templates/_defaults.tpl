{{- /*
Helm takes a key away whose value is null, which is what `metrics:` with nothing below it means; with --reuse-values, keys of a
later chart are not there either. Then the default counts, for a whole table as for a key of one. Each template begins with this.
Not here is what null takes away (resources, tolerations, priorityClassName, localAddress), what an empty default says as well,
and what must be there: the schema requires it.
*/ -}}
{{- define "nodens.defaults" -}}
{{- $values := .Values -}}
{{- range $key, $default := include "nodens.defaultValues" . | fromYaml -}}
  {{- $given := index $values $key -}}
  {{- if kindIs "invalid" $given -}}
    {{- $_ := set $values $key $default -}}
  {{- else if kindIs "map" $default -}}
    {{- range $name, $value := $default -}}
      {{- if kindIs "invalid" (index $given $name) -}}
        {{- $_ := set $given $name $value -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- /* Those of values.yaml, which templates cannot read. */ -}}
{{- define "nodens.defaultValues" -}}
image: {repository: nodens, tag: "", digest: "", pullPolicy: IfNotPresent}
interface: {name: "", kind: dummy, onExit: ""}
allow: [private]
podCIDRs: []
config: {}
checkConfig: true
lastGoodConfig: {volume: hostPath, path: /var/lib/nodens}
jobNamespaces: []
service: {clusterIP: "", annotations: {}}
nodeLocal: {upstreamClusterIP: "", upstreamSelector: {k8s-app: kube-dns}}
metrics: {enabled: true, port: 9153, coredns: false, annotations: {}}
serviceMonitor:
  {enabled: false, namespace: "", labels: {}, interval: 30s, scrapeTimeout: 10s, relabelings: [], metricRelabelings: []}
prometheusRule: {enabled: false, namespace: "", labels: {}}
dashboard: {enabled: false, namespace: "", labels: {grafana_dashboard: "1"}, annotations: {}}
networkPolicy: {enabled: false, podSelector: {}, nodeCIDRs: []}
ciliumLocalRedirectPolicy: {enabled: false, frontend: address}
serviceAccount: {create: true, name: "", annotations: {}}
scheduling: normal
tests: {names: []}
{{- end -}}
