{{- /* Durations and sizes as nodens.yaml writes them, and quantities as Kubernetes does, so that values can be compared. */ -}}

{{- /* dict "key" "value" → milliseconds, rounded up. Unknown text fails with the key. The units are those of nodens (leaf.rs). */ -}}
{{- define "nodens.milliseconds" -}}
{{- $units := dict -}}
{{- range $names, $milliseconds := dict
  "nanos nsec ns" 0.000001
  "usec us µs" 0.001
  "millis msec ms" 1
  "seconds second secs sec s" 1000
  "minutes minute mins min m" 60000
  "hours hour hrs hr h" 3600000
  "days day d" 86400000
  "weeks week wks wk w" 604800000
  "months month M" 2630016000
  "years year yrs yr y" 31557600000 -}}
{{- range splitList " " $names -}}
{{- $_ := set $units . $milliseconds -}}
{{- end -}}
{{- end -}}
{{- $text := .value | toString | trim -}}
{{- $total := 0.0 -}}
{{- if not (regexMatch "^0+$" $text) -}}
{{- $part := "([0-9]+(\\.[0-9]+)?) *([a-zA-Zµ]+) *" -}}
{{- if not (regexMatch (printf "^(%s)+$" $part) $text) -}}
{{- fail (printf "%s: %s is not a duration such as 10s or 500ms" .key $text) -}}
{{- end -}}
{{- range regexFindAll $part $text -1 -}}
{{- $unit := regexReplaceAll $part . "${3}" -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "%s: %s is not a duration such as 10s or 500ms" $.key $text) -}}
{{- end -}}
{{- $total = addf $total (mulf (regexReplaceAll $part . "${1}" | float64) (get $units $unit)) -}}
{{- end -}}
{{- end -}}
{{- ceil $total | int64 -}}
{{- end -}}

{{- /* dict "key" "value" → bytes. A size of nodens.yaml: 64MiB, 64Mi, 64MB, 64M in any case, or a number. */ -}}
{{- define "nodens.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "ki" 1024 "m" 1000000 "mi" 1048576 "g" 1000000000 "gi" 1073741824 "t" 1000000000000 "ti" 1099511627776 -}}
{{- if kindIs "string" .value -}}
{{- $text := .value | trim -}}
{{- $unit := regexFind "[A-Za-z]*$" $text | lower | trimSuffix "b" -}}
{{- if or (not (regexMatch "^([0-9]+\\.?[0-9]*|\\.[0-9]+) *[A-Za-z]*$" $text)) (not (hasKey $units $unit)) -}}
{{- fail (printf "%s: %s is not a size such as 64MiB" .key $text) -}}
{{- end -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units $unit) | int64 -}}
{{- else -}}
{{- .value | int64 -}}
{{- end -}}
{{- end -}}

{{- /*
dict "key" "value" → bytes. A quantity of Kubernetes: 256Mi, 256M, 0.3e9, or a number. Its units are case-sensitive: M is a
million, m a thousandth, and nothing ends with B.
*/ -}}
{{- define "nodens.quantity" -}}
{{- $units := dict "" 1 "k" 1000 "Ki" 1024 "M" 1000000 "Mi" 1048576 "G" 1000000000 "Gi" 1073741824 "T" 1000000000000 "Ti" 1099511627776 "P" 1000000000000000 "Pi" 1125899906842624 "E" 1000000000000000000 "Ei" 1152921504606846976 -}}
{{- if kindIs "string" .value -}}
{{- $number := regexFind "^\\+?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?" .value -}}
{{- $unit := trimPrefix $number .value -}}
{{- if or (not $number) (not (hasKey $units $unit)) (and $unit (regexMatch "[eE]" $number)) -}}
  {{- /* What was meant, by its letters in any case. */ -}}
  {{- $meant := "256Mi" -}}
  {{- range $known, $_ := $units -}}
    {{- if and $number (not (regexMatch "[eE]" $number)) $known (eq (trim $unit | lower | trimSuffix "b") (lower $known)) -}}
      {{- $meant = printf "%s%s" $number $known -}}
    {{- end -}}
  {{- end -}}
  {{- if eq $unit "m" -}}
    {{- fail (printf "%s: %s is thousandths of a byte for Kubernetes; write %sMi for mebibytes" .key .value $number) -}}
  {{- end -}}
  {{- fail (printf "%s: %s is not a quantity of Kubernetes, whose units are k, M, G, T and Ki, Mi, Gi, Ti; write %s" .key .value $meant) -}}
{{- end -}}
{{- mulf ($number | float64) (get $units $unit) | int64 -}}
{{- else -}}
{{- .value | int64 -}}
{{- end -}}
{{- end -}}

{{- /* A network → its reverse zones, on whole labels (RFC 1035 §3.5, RFC 3596 §2.5), as a JSON list in a dict. */ -}}
{{- define "nodens.reverseZones" -}}
{{- $address := first (splitList "/" .) -}}
{{- $length := last (splitList "/" .) | int -}}
{{- $digits := list -}}
{{- $bits := 8 -}}
{{- $hex := "0123456789abcdef" -}}
{{- $suffix := "in-addr.arpa" -}}
{{- if contains ":" . -}}
  {{- $bits = 4 -}}
  {{- $suffix = "ip6.arpa" -}}
  {{- $halves := splitList "::" $address -}}
  {{- $groups := list -}}
  {{- $left := compact (splitList ":" (first $halves)) -}}
  {{- $right := list -}}
  {{- if gt (len $halves) 1 -}}{{- $right = compact (splitList ":" (last $halves)) -}}{{- end -}}
  {{- $missing := sub 8 (add (len $left) (len $right)) | int -}}
  {{- $zeros := list -}}
  {{- range until $missing -}}{{- $zeros = append $zeros "0" -}}{{- end -}}
  {{- range concat $left $zeros $right -}}
    {{- $padded := printf "%s%s" (repeat (sub 4 (len .) | int) "0") (lower .) -}}
    {{- range splitList "" $padded -}}{{- $digits = append $digits (len (first (splitList . $hex))) -}}{{- end -}}
  {{- end -}}
{{- else -}}
  {{- range splitList "." $address -}}{{- $digits = append $digits (int .) -}}{{- end -}}
{{- end -}}
{{- /* The last label that the prefix reaches into stands for several zones unless the prefix ends with it. */ -}}
{{- $labels := div (add $length (sub $bits 1)) $bits | int -}}
{{- $count := 1 -}}
{{- range until (sub (mul $labels $bits) $length | int) -}}{{- $count = mul $count 2 | int -}}{{- end -}}
{{- $last := index $digits (sub $labels 1 | int) | int -}}
{{- $base := sub $last (mod $last $count) | int -}}
{{- $parents := reverse (slice $digits 0 (sub $labels 1 | int)) -}}
{{- $zones := list -}}
{{- range until $count -}}
  {{- $parts := list -}}
  {{- range prepend $parents (add $base .) -}}
    {{- if eq $bits 4 -}}
      {{- $parts = append $parts (substr (int .) (int (add1 .)) $hex) -}}
    {{- else -}}
      {{- $parts = append $parts (toString .) -}}
    {{- end -}}
  {{- end -}}
  {{- $zones = append $zones (printf "%s.%s" (join "." $parts) $suffix) -}}
{{- end -}}
{{- toJson (dict "zones" $zones) -}}
{{- end -}}

{{- /* A network or an address → the bits of its prefix, after the number of its family: "4:00001010" is 10.0.0.0/8. */ -}}
{{- define "nodens.prefix" -}}
{{- $address := first (splitList "/" .) -}}
{{- $bits := "" -}}
{{- $family := "4" -}}
{{- if contains ":" . -}}
  {{- $family = "6" -}}
  {{- $halves := splitList "::" $address -}}
  {{- $left := compact (splitList ":" (first $halves)) -}}
  {{- $right := list -}}
  {{- if gt (len $halves) 1 -}}{{- $right = compact (splitList ":" (last $halves)) -}}{{- end -}}
  {{- $zeros := list -}}
  {{- range until (sub 8 (add (len $left) (len $right)) | int) -}}{{- $zeros = append $zeros "0" -}}{{- end -}}
  {{- range concat $left $zeros $right -}}
    {{- range splitList "" (printf "%s%s" (repeat (sub 4 (len .) | int) "0") (lower .)) -}}
      {{- $bits = printf "%s%04b" $bits (len (first (splitList . "0123456789abcdef"))) -}}
    {{- end -}}
  {{- end -}}
{{- else -}}
  {{- range splitList "." $address -}}{{- $bits = printf "%s%08b" $bits (int .) -}}{{- end -}}
{{- end -}}
{{- $length := contains "/" . | ternary (last (splitList "/" .)) (len $bits | toString) | int -}}
{{- printf "%s:%s" $family (trunc $length $bits) -}}
{{- end -}}
