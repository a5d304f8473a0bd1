{{- /* dict "into" "from": from's keys over into's, tables key by key, all else whole; false and 0 count, null takes away. */ -}}
{{- define "nodens.merge" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if kindIs "map" $value -}}
{{- if not (kindIs "map" (get $into $key)) -}}
{{- $_ := set $into $key dict -}}
{{- end -}}
{{- include "nodens.merge" (dict "into" (get $into $key) "from" $value) -}}
{{- else if kindIs "invalid" $value -}}
{{- $_ := unset $into $key -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* nodens.yaml */ -}}
{{- define "nodens.config" -}}
{{- $config := dict
  "allow" .Values.allow
  "admin" (printf "127.0.0.1:%d" (int .Values.metrics.port))
  "socket" "/run/nodens/nodens.sock"
  "handover" true
  "shutdown_grace" "10s"
  "cache" (dict "max_size" "64MiB") -}}
{{- if .Values.metrics.coredns -}}
{{- $_ := set $config "metrics" (dict "coredns" true) -}}
{{- end -}}
{{- if eq .Values.scheduling "realtime" -}}
{{- $_ := set $config "scheduling" "realtime" -}}
{{- end -}}

{{- $addresses := (include "nodens.nodeAddresses" . | fromJson).ips | default list -}}
{{- if $addresses -}}
{{- $listen := list -}}
{{- range $addresses -}}
{{- $listen = append $listen (contains ":" . | ternary (printf "[%s]:53" .) (printf "%s:53" .)) -}}
{{- end -}}
{{- $_ := set $config "listen" $listen -}}
{{- /* linkLocal keeps the address when it ends: a client is then refused at once, not left waiting. nodeLocal removes
       it: kube-dns gets its traffic back. */ -}}
{{- $_ := set $config "node" (dict
  "addresses" $addresses
  "interface" (dict
    "name" (.Values.interface.name | default (eq .Values.interface.kind "loopback" | ternary "lo" "nodens"))
    "kind" .Values.interface.kind)
  "notrack" true
  "on_exit" (.Values.interface.onExit | default (eq .Values.mode "nodeLocal" | ternary "remove" "keep"))) -}}
{{- end -}}

{{- /* A name that kube-dns knows by itself: ". NS" would ask its upstreams, which may be the ones that are sick. */ -}}
{{- $cluster := dict
  "servers" ((include "nodens.clusterDNS" . | fromJson).ips | default list)
  "probe" (printf "kubernetes.default.svc.%s A" .Values.clusterDomain) -}}
{{- if include "nodens.takesOverKubeDNS" . -}}
{{- $_ := set $cluster "servers" (list (include "nodens.upstreamClusterIP" .)) -}}
{{- end -}}
{{- $upstreams := dict "cluster" $cluster "vpc" (dict "servers" (.Values.vpcDNS | default (list (include "nodens.resolvConf" .)))) -}}
{{- /* Services come and go: "no such name" is asked anew after 5 s. */ -}}
{{- $toCluster := dict "group" "cluster" "max_negative_ttl" "5s" -}}
{{- $routes := dict .Values.clusterDomain $toCluster "." "vpc" -}}
{{- range (kindIs "slice" .Values.serviceCIDR | ternary .Values.serviceCIDR (compact (list .Values.serviceCIDR))) -}}
{{- range (include "nodens.reverseZones" . | fromJson).zones -}}
{{- $_ := set $routes . $toCluster -}}
{{- end -}}
{{- end -}}
{{- if .Values.publicDNS -}}
{{- $_ := set $upstreams "public" (dict "servers" .Values.publicDNS) -}}
{{- $_ := set $routes "." (list "vpc" "public") -}}
{{- end -}}
{{- $_ := set $config "upstreams" $upstreams -}}
{{- $_ := set $config "routes" $routes -}}
{{- $copy := $config | toJson | fromJson -}}
{{- include "nodens.merge" (dict "into" $copy "from" .Values.config) -}}
{{- if and (hasKey .Values.config "admin") (kindIs "invalid" .Values.config.admin) -}}
{{- /* Here null says that there is no such address; without the key there is one. */ -}}
{{- $_ := set $copy "admin" nil -}}
{{- end -}}
{{- toYaml $copy -}}
{{- end -}}
