{{- define "nodens.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "nodens.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "nodens.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nodens.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nodens.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The pods of the DaemonSet, and not the one of `helm test`. */ -}}
{{- define "nodens.podSelector" -}}
{{ include "nodens.selectorLabels" . }}
app.kubernetes.io/component: nameserver
{{- end -}}

{{- define "nodens.labels" -}}
{{ include "nodens.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /*
A list of tables → one, as YAML; of a key that several have, the last counts. Written one below the other, they would have that
key twice, which kustomize and Flux refuse.
*/ -}}
{{- define "nodens.merged" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . | default dict -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- define "nodens.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "nodens.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range .Values.imagePullSecrets -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with $secrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "nodens.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "nodens.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /*
Affinity: the user's, with the virtual nodes excluded from each of its terms. Terms are alternatives, so an exclusion in
a term of its own would allow what it is to forbid.
*/ -}}
{{- define "nodens.affinity" -}}
{{- $exclude := list
  (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate"))
  (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")) -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) -}}
{{- $node := get $affinity "nodeAffinity" | default dict -}}
{{- $required := get $node "requiredDuringSchedulingIgnoredDuringExecution" | default dict -}}
{{- $terms := list -}}
{{- range (get $required "nodeSelectorTerms" | default (list dict)) -}}
{{- $expressions := concat (get . "matchExpressions" | default list) $exclude -}}
{{- $terms = append $terms (set . "matchExpressions" $expressions) -}}
{{- end -}}
{{- $_ := set $required "nodeSelectorTerms" $terms -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- toYaml $affinity -}}
{{- end -}}

{{- /* kube-dns's ClusterIPs, as a JSON list in a dict: the value, else what the cluster says. */ -}}
{{- define "nodens.clusterDNS" -}}
{{- $ips := list -}}
{{- if kindIs "slice" .Values.clusterDNS -}}
{{- $ips = .Values.clusterDNS -}}
{{- else if .Values.clusterDNS -}}
{{- $ips = list .Values.clusterDNS -}}
{{- else -}}
{{- $found := lookup "v1" "Service" "kube-system" "kube-dns" -}}
{{- if not $found -}}
  {{- /* Another name, the same label; NodeLocal DNSCache's own upstream Service has it too. */ -}}
  {{- $candidates := list -}}
  {{- range (get (lookup "v1" "Service" "kube-system" "" | default dict) "items" | default list) -}}
    {{- $labels := .metadata.labels | default dict -}}
    {{- if and (eq (get $labels "k8s-app") "kube-dns") (ne .metadata.name "kube-dns-upstream") (ne (.spec.clusterIP | default "None") "None") -}}
      {{- $candidates = append $candidates . -}}
    {{- end -}}
  {{- end -}}
  {{- if eq (len $candidates) 1 -}}
    {{- $found = first $candidates -}}
  {{- else if $candidates -}}
    {{- $names := list -}}
    {{- range $candidates -}}{{- $names = append $names .metadata.name -}}{{- end -}}
    {{- fail (printf "clusterDNS: several Services in kube-system could be kube-dns (%s); set clusterDNS to the address of the right one" (join ", " $names)) -}}
  {{- end -}}
{{- end -}}
{{- if $found -}}
{{- $ips = $found.spec.clusterIPs | default (list $found.spec.clusterIP) -}}
{{- end -}}
{{- end -}}
{{- if not $ips -}}
{{- fail "clusterDNS: not set, and there is no cluster to look it up in (or no Service kube-dns in kube-system): set clusterDNS to the address that `kubectl -n kube-system get service kube-dns` shows, such as 10.96.0.10" -}}
{{- end -}}
{{- toJson (dict "ips" $ips) -}}
{{- end -}}

{{- /* Of the node's own address: status.hostIP has the cluster's first family, and so has kube-dns. */ -}}
{{- define "nodens.hostIPFamily" -}}
{{- if .Values.hostIPFamily -}}
{{- .Values.hostIPFamily -}}
{{- else -}}
{{- $ips := (include "nodens.clusterDNS" . | fromJson).ips | default list -}}
{{- contains ":" (first (append $ips "")) | ternary "IPv6" "IPv4" -}}
{{- end -}}
{{- end -}}

{{- define "nodens.hostIP" -}}
{{- (eq (include "nodens.hostIPFamily" .) "IPv6") | ternary "[$(HOST_IP)]" "$(HOST_IP)" -}}
{{- end -}}

{{- /* Addresses that nodens puts on the node itself, as a JSON list in a dict. */ -}}
{{- define "nodens.nodeAddresses" -}}
{{- $ips := list -}}
{{- if eq .Values.mode "linkLocal" -}}
{{- $ips = compact (list .Values.localAddress .Values.localAddressIPv6) -}}
{{- else if eq .Values.mode "nodeLocal" -}}
{{- $ips = (include "nodens.clusterDNS" . | fromJson).ips | default list -}}
{{- end -}}
{{- toJson (dict "ips" $ips) -}}
{{- end -}}

{{- /* Addresses that pods ask, as a JSON list in a dict; empty if only the cluster knows yet. */ -}}
{{- define "nodens.podAddresses" -}}
{{- if ne .Values.mode "service" -}}
{{- include "nodens.nodeAddresses" . -}}
{{- else if .Values.ciliumLocalRedirectPolicy.enabled -}}
{{- if eq .Values.ciliumLocalRedirectPolicy.frontend "kubeDNS" -}}
{{- include "nodens.clusterDNS" . -}}
{{- else -}}
{{- toJson (dict "ips" (list .Values.localAddress)) -}}
{{- end -}}
{{- else if .Values.service.clusterIP -}}
{{- toJson (dict "ips" (list .Values.service.clusterIP)) -}}
{{- else -}}
{{- $service := lookup "v1" "Service" .Release.Namespace (include "nodens.fullname" .) | default dict -}}
{{- toJson (dict "ips" (compact (list (dig "spec" "clusterIP" "" $service)))) -}}
{{- end -}}
{{- end -}}

{{- /* Whether kube-dns's own address leads to us, so that we need another way to kube-dns. "true" or nothing. */ -}}
{{- define "nodens.takesOverKubeDNS" -}}
{{- if or (eq .Values.mode "nodeLocal") (and .Values.ciliumLocalRedirectPolicy.enabled (eq .Values.ciliumLocalRedirectPolicy.frontend "kubeDNS")) -}}
true
{{- end -}}
{{- end -}}

{{- define "nodens.upstreamServiceName" -}}
{{- printf "%s-upstream" (include "nodens.fullname" .) -}}
{{- end -}}

{{- /*
Whether pods of the release that is installed still ask by the upstream Service, although no new ones will. Helm deletes what a
release no longer has at once, and node after node gets its new pod; so it stays until the next upgrade. "true" or nothing.
*/ -}}
{{- define "nodens.upstreamServiceStillUsed" -}}
{{- $service := lookup "v1" "Service" "kube-system" (include "nodens.upstreamServiceName" .) | default dict -}}
{{- $pods := lookup "apps/v1" "DaemonSet" .Release.Namespace (include "nodens.fullname" .) | default dict -}}
{{- $status := get $pods "status" | default dict -}}
{{- $replaced := ge (get $status "updatedNumberScheduled" | default 0 | int) (get $status "desiredNumberScheduled" | default 0 | int) -}}
{{- if and $service (eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $service) .Release.Name) $pods -}}
{{- if or (eq (dig "metadata" "annotations" "nodens/upstream-service" "" $pods) "used") (not $replaced) -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{- /*
The address of the upstream Service. The configuration needs it before the Service exists, and Helm cannot wait for what
the cluster would pick; so we pick: the value, the one it has, or the neighbour of kube-dns's. Kubernetes keeps the low
addresses of a Service network for fixed ones such as these, and refuses one that is taken.
*/ -}}
{{- define "nodens.upstreamClusterIP" -}}
{{- $name := include "nodens.upstreamServiceName" . -}}
{{- $existing := lookup "v1" "Service" "kube-system" $name -}}
{{- if .Values.nodeLocal.upstreamClusterIP -}}
{{- .Values.nodeLocal.upstreamClusterIP -}}
{{- else if $existing -}}
{{- $existing.spec.clusterIP -}}
{{- else -}}
{{- $ip := first (append ((include "nodens.clusterDNS" . | fromJson).ips | default list) "") -}}
{{- $last := regexFind "[0-9A-Fa-f]+$" $ip -}}
{{- $next := "" -}}
{{- if and (contains "." $ip) (lt (int $last) 254) -}}
  {{- $next = add1 (int $last) | toString -}}
{{- else if and (contains ":" $ip) $last (not (regexMatch "[9fF]$" $last)) -}}
  {{- /* One hexadecimal digit up; a carry is left to the user. */ -}}
  {{- $digits := "0123456789abcdef" -}}
  {{- $digit := lower (substr (int (sub (len $last) 1)) (len $last) $last) -}}
  {{- $at := len (first (splitList $digit $digits)) -}}
  {{- $next = printf "%s%s" (substr 0 (int (sub (len $last) 1)) $last) (substr (int (add1 $at)) (int (add $at 2)) $digits) -}}
{{- end -}}
{{- if not $next -}}
  {{- fail (printf "nodeLocal.upstreamClusterIP: set it to a free address of the Service network; there is no obvious one beside clusterDNS %s" $ip) -}}
{{- end -}}
{{- $picked := printf "%s%s" (trimSuffix $last $ip) $next -}}
{{- range (get (lookup "v1" "Service" "" "" | default dict) "items" | default list) -}}
  {{- if has $picked (.spec.clusterIPs | default (list (.spec.clusterIP | default "None"))) -}}
    {{- fail (printf "nodeLocal.upstreamClusterIP: %s, the one beside clusterDNS, belongs to the Service %s/%s; set it to a free address of the Service network" $picked .metadata.namespace .metadata.name) -}}
  {{- end -}}
{{- end -}}
{{- $picked -}}
{{- end -}}
{{- end -}}

{{- /* Longest that a query may take, over all groups, in whole seconds and one more: what clients should wait. */ -}}
{{- define "nodens.clientTimeout" -}}
{{- $longest := 0 -}}
{{- range $name, $group := (include "nodens.config" . | fromYaml).upstreams -}}
{{- $deadline := include "nodens.milliseconds" (dict "key" (printf "config.upstreams.%s.deadline" $name) "value" (get $group "deadline" | default "4s")) | int -}}
{{- $longest = max $longest $deadline -}}
{{- end -}}
{{- /* glibc takes no more than 30 (RES_MAXRETRANS). */ -}}
{{- min 30 (add1 (div (add $longest 999) 1000)) -}}
{{- end -}}

{{- /*
Whether `admin` listens on all addresses of the node's family at the port of the metrics: it serves them there, and the kernel gives
that port of the node's IP to no other listener. "true" or nothing. `[::]` takes IPv6 only.
*/ -}}
{{- define "nodens.adminServesMetrics" -}}
{{- $all := eq (include "nodens.hostIPFamily" .) "IPv6" | ternary "\\[[0:]+\\]" "0\\.0\\.0\\.0" -}}
{{- if regexMatch (printf "^%s:0*%d$" $all (int .Values.metrics.port)) (.Values.config.admin | default "") -}}
true
{{- end -}}
{{- end -}}

{{- /* Variables that are part of the configuration: what only the pod knows. */ -}}
{{- define "nodens.environment" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
# Quoted within: values of these variables are YAML, and a name may look like a number.
- name: NODENS__NODE_NAME
  value: '"$(NODE_NAME)"'
{{- $listen := and .Values.metrics.enabled (not (get (.Values.config.metrics | default dict) "listen")) (not (include "nodens.adminServesMetrics" .)) }}
{{- if or .Values.metrics.enabled (eq .Values.mode "service") }}
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- end }}
{{- if $listen }}
- name: NODENS__METRICS__LISTEN
  value: {{ printf "%s:%d" (include "nodens.hostIP" .) (int .Values.metrics.port) | quote }}
{{- end }}
{{- if and (eq .Values.mode "service") (not .Values.config.listen) }}
- name: NODENS__LISTEN
  value: {{ printf "[%q]" (printf "%s:53" (include "nodens.hostIP" .)) | squote }}
{{- end }}
{{- end -}}

{{- /* The pod networks that are known, as a JSON list in a dict: the value, else what the nodes say. */ -}}
{{- define "nodens.podCIDRs" -}}
{{- $networks := .Values.podCIDRs -}}
{{- if not $networks -}}
{{- range (get (lookup "v1" "Node" "" "" | default dict) "items" | default list) -}}
{{- $networks = concat $networks (.spec.podCIDRs | default (compact (list (.spec.podCIDR | default "")))) -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "networks" ($networks | uniq)) -}}
{{- end -}}

{{- /* dict "networks" "allow" → those that `allow` leaves out, as a JSON list in a dict. The word private: PRIVATE in allow.rs. */ -}}
{{- define "nodens.notAllowed" -}}
{{- $allowed := list -}}
{{- range .allow -}}
  {{- if eq . "private" -}}
    {{- range list "127.0.0.0/8" "::1/128" "169.254.0.0/16" "fe80::/10" "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "100.64.0.0/10" "fc00::/7" -}}
      {{- $allowed = append $allowed (include "nodens.prefix" .) -}}
    {{- end -}}
  {{- else if eq . "all" -}}
    {{- $allowed = concat $allowed (list "4:" "6:") -}}
  {{- else -}}
    {{- $allowed = append $allowed (include "nodens.prefix" .) -}}
  {{- end -}}
{{- end -}}
{{- $left := list -}}
{{- range $network := .networks -}}
  {{- $prefix := include "nodens.prefix" $network -}}
  {{- $within := false -}}
  {{- range $allowed -}}{{- if hasPrefix . $prefix -}}{{- $within = true -}}{{- end -}}{{- end -}}
  {{- if not $within -}}{{- $left = append $left $network -}}{{- end -}}
{{- end -}}
{{- toJson (dict "networks" $left) -}}
{{- end -}}

{{- /* Where the container finds the node's resolv.conf: the kubelet's copy, or the file itself, below /node. */ -}}
{{- define "nodens.resolvConf" -}}
{{- empty .Values.nodeResolvConf | ternary "/etc/resolv.conf" (printf "/node%s" .Values.nodeResolvConf) -}}
{{- end -}}

{{- define "nodens.resolvConfMount" -}}
{{- with .Values.nodeResolvConf -}}
- name: node-resolv-conf
  mountPath: {{ printf "/node%s" (dir .) }}
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "nodens.resolvConfVolume" -}}
{{- with .Values.nodeResolvConf -}}
# The directory: the file is replaced when it changes, and a mounted file would stay the old one.
- name: node-resolv-conf
  hostPath:
    path: {{ dir . }}
    type: Directory
{{- end -}}
{{- end -}}
