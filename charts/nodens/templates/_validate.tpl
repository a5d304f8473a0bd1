{{- /* What no schema can say: values that contradict one another. Each message begins with the key to change. */ -}}
{{- define "nodens.validate" -}}
{{- $config := include "nodens.config" . | fromYaml -}}
{{- if $config.Error -}}{{- fail (printf "config: %s" $config.Error) -}}{{- end -}}
{{- $clusterDNS := (include "nodens.clusterDNS" . | fromJson).ips | default list -}}

{{- $name := include "nodens.fullname" . -}}
{{- /* RFC 1035 §2.3.1, which Kubernetes has for Services; other objects may be called more. */ -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
  {{- fail (printf "fullnameOverride: Services would be called %s, which Kubernetes refuses: a letter must come first, then lower-case letters, digits and -, but no dot; set fullnameOverride to such a name, for example nodens, or name the release otherwise" $name) -}}
{{- end -}}

{{- if eq .Values.mode "linkLocal" -}}
  {{- if not (or .Values.localAddress .Values.localAddressIPv6) -}}
    {{- fail "localAddress: mode linkLocal needs it, or localAddressIPv6, or both" -}}
  {{- end -}}
  {{- if .Values.service.clusterIP -}}
    {{- fail "service.clusterIP: there is a Service in mode service only; unset it, or set mode" -}}
  {{- end -}}
  {{- if has .Values.localAddress $clusterDNS -}}
    {{- fail (printf "localAddress: %s is kube-dns's own address (clusterDNS); to take it over, set mode to nodeLocal" .Values.localAddress) -}}
  {{- end -}}
{{- else if .Values.localAddressIPv6 -}}
  {{- fail (printf "localAddressIPv6: mode %s does not use it; unset it, or set mode to linkLocal" .Values.mode) -}}
{{- end -}}
{{- if hasPrefix "127." (.Values.localAddress | default "") -}}
  {{- fail (printf "localAddress: %s is every pod's own loopback, not the node's; choose one of 169.254.0.0/16, such as 169.254.20.53" .Values.localAddress) -}}
{{- end -}}
{{- if eq (.Values.localAddress | default "") "169.254.169.254" -}}
  {{- fail "localAddress: 169.254.169.254 is the cloud's metadata service; choose another, such as 169.254.20.53" -}}
{{- end -}}

{{- $own := (include "nodens.podAddresses" . | fromJson).ips | default list -}}
{{- range $key, $servers := dict "vpcDNS" .Values.vpcDNS "publicDNS" .Values.publicDNS -}}
  {{- range $servers -}}
    {{- if has . $own -}}
      {{- fail (printf "%s: %s is the address that pods ask nodens at, so it would ask itself; name the servers behind it" $key .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- if and .Values.nodeResolvConf .Values.vpcDNS (not (has (include "nodens.resolvConf" .) .Values.vpcDNS)) -}}
  {{- fail (printf "nodeResolvConf: vpcDNS names the servers, and not this file; unset one of them, or add %s to vpcDNS" (include "nodens.resolvConf" .)) -}}
{{- end -}}

{{- if eq .Values.mode "nodeLocal" -}}
  {{- $proxy := dig "data" "config.conf" "" (lookup "v1" "ConfigMap" "kube-system" "kube-proxy" | default dict) -}}
  {{- if regexMatch "(?m)^mode: *[\"']?ipvs" $proxy -}}
    {{- fail "mode: nodeLocal does not work with kube-proxy in IPVS mode, which keeps kube-dns's address on an interface of its own; use linkLocal" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.nodeLocal.upstreamClusterIP (has .Values.nodeLocal.upstreamClusterIP $clusterDNS) -}}
  {{- fail (printf "nodeLocal.upstreamClusterIP: %s is clusterDNS itself, which leads to nodens; choose a free address of the Service network" .Values.nodeLocal.upstreamClusterIP) -}}
{{- end -}}

{{- if .Values.ciliumLocalRedirectPolicy.enabled -}}
  {{- if ne .Values.mode "service" -}}
    {{- fail (printf "ciliumLocalRedirectPolicy.enabled: it redirects to the node's IP, where nodens listens in mode service only, not %s" .Values.mode) -}}
  {{- end -}}
  {{- if eq .Values.ciliumLocalRedirectPolicy.frontend "kubeDNS" -}}
    {{- if ne .Release.Namespace "kube-system" -}}
      {{- fail (printf "ciliumLocalRedirectPolicy.frontend: kubeDNS needs the release in kube-system, not %s: Cilium wants policy, Service and pods in one namespace" .Release.Namespace) -}}
    {{- end -}}
  {{- else if not .Values.localAddress -}}
    {{- fail "localAddress: ciliumLocalRedirectPolicy.frontend address needs it" -}}
  {{- end -}}
{{- end -}}

{{- if .Values.networkPolicy.enabled -}}
  {{- if not .Values.jobNamespaces -}}
    {{- fail "jobNamespaces: networkPolicy.enabled needs the namespaces whose pods may ask" -}}
  {{- end -}}
  {{- if and (eq .Values.mode "service") (not .Values.networkPolicy.nodeCIDRs) -}}
    {{- fail "networkPolicy.nodeCIDRs: mode service needs the nodes' networks, such as [10.0.0.0/16]: that is where queries go once the Service's address is translated" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
  {{- fail "serviceMonitor.enabled: there is nothing to scrape while metrics.enabled is false" -}}
{{- end -}}

{{- if not (hasPrefix "/" (toString $config.socket)) -}}
  {{- fail (printf "config.socket: the probes ask there, so it must be an absolute path such as /run/nodens/nodens.sock, not %s" (toJson $config.socket)) -}}
{{- end -}}
{{- /* Its directory becomes an emptyDir, which must hide neither the binary nor another mount, nor lie within one. */ -}}
{{- $directory := dir $config.socket -}}
{{- if eq $directory "/" -}}
  {{- fail (printf "config.socket: %s is in the root directory, which cannot be a volume; give it a directory of its own, such as /run/nodens/nodens.sock" $config.socket) -}}
{{- end -}}
{{- $taken := list "/nodens" "/dev" "/proc" "/sys" "/etc/nodens" -}}
{{- if ne .Values.lastGoodConfig.volume "none" -}}{{- $taken = append $taken "/var/lib/nodens" -}}{{- end -}}
{{- with .Values.nodeResolvConf -}}{{- $taken = append $taken (printf "/node%s" (dir .)) -}}{{- end -}}
{{- range .Values.extraVolumeMounts -}}
  {{- if eq (clean .mountPath) $directory -}}{{- $taken = append $taken $directory -}}{{- end -}}
{{- end -}}
{{- range $taken -}}
  {{- if or (hasPrefix (printf "%s/" .) (printf "%s/" $directory)) (hasPrefix (printf "%s/" $directory) (printf "%s/" .)) -}}
    {{- fail (printf "config.socket: the directory of %s becomes a volume of its own, but %s is in use already; choose another, such as /run/nodens/nodens.sock" $config.socket .) -}}
  {{- end -}}
{{- end -}}
{{- if ne (get $config "handover" | toString) "true" -}}
  {{- fail "config.handover: an upgrade starts the new pod of a node while the old one still listens, which needs true; with anything else the new pod cannot listen and the upgrade never ends; leave it out" -}}
{{- end -}}
{{- /* null takes away what the chart makes of these two; nodens's own defaults count, which are the same. */ -}}
{{- $shutdownGrace := hasKey $config "shutdown_grace" | ternary $config.shutdown_grace "10s" -}}
{{- $cacheSize := dig "cache" "max_size" "64MiB" $config -}}
{{- $grace := include "nodens.milliseconds" (dict "key" "config.shutdown_grace" "value" $shutdownGrace) | int64 -}}
{{- if le (mul 1000 (int64 .Values.terminationGracePeriodSeconds)) $grace -}}
  {{- fail (printf "terminationGracePeriodSeconds: %d must be above config.shutdown_grace (%s): the kubelet would kill nodens while it still answers" (int64 .Values.terminationGracePeriodSeconds) (toString $shutdownGrace)) -}}
{{- end -}}

{{- $os := get (.Values.nodeSelector | default dict) "kubernetes.io/os" | default "linux" -}}
{{- if ne $os "linux" -}}
  {{- fail (printf "nodeSelector: kubernetes.io/os is linux, which nodens is made for, and not %s; leave it out" $os) -}}
{{- end -}}
{{- range tuple "name" "instance" "component" -}}
  {{- if hasKey ($.Values.podLabels | default dict) (printf "app.kubernetes.io/%s" .) -}}
    {{- fail (printf "podLabels: app.kubernetes.io/%s is one of those that the DaemonSet knows its pods by; choose another label" .) -}}
  {{- end -}}
{{- end -}}
{{- range $kind, $amounts := .Values.resources | default dict -}}
  {{- with get ($amounts | default dict) "memory" -}}
    {{- $_ := include "nodens.quantity" (dict "key" (printf "resources.%s.memory" $kind) "value" .) -}}
  {{- end -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" (.Values.resources | default dict) -}}
{{- if $limit -}}
  {{- $cache := include "nodens.bytes" (dict "key" "config.cache.max_size" "value" $cacheSize) | int64 -}}
  {{- $needed := add (div (mul $cache 115) 100) 67108864 -}}
  {{- if lt (include "nodens.quantity" (dict "key" "resources.limits.memory" "value" $limit) | int64) $needed -}}
    {{- fail (printf "resources.limits.memory: %s is too little for config.cache.max_size %s, which needs %dMi: the cache and 15 %% of it, and 64Mi for everything else" (toString $limit) (toString $cacheSize) (div (add $needed 1048575) 1048576)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
