{{- /* Durations and sizes as nodens.yaml and Kubernetes write them, so that values can be compared. */ -}}

{{- /* dict "key" "value" → milliseconds. Unknown text fails with the key. */ -}}
{{- define "nodens.milliseconds" -}}
{{- $units := dict "ms" 1 "msec" 1 "millis" 1 "s" 1000 "sec" 1000 "secs" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hr" 3600000 "hour" 3600000 "hours" 3600000 -}}
{{- $text := .value | toString | trim -}}
{{- $total := 0 -}}
{{- if ne $text "0" -}}
{{- if not (regexMatch "^([0-9]+ *[a-z]+ *)+$" $text) -}}
{{- fail (printf "%s: %s is not a duration such as 10s or 500ms" .key $text) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "%s: %s is not a duration such as 10s or 500ms" $.key $text) -}}
{{- end -}}
{{- $total = add $total (mul (regexFind "[0-9]+" . | int64) (get $units $unit)) -}}
{{- end -}}
{{- end -}}
{{- $total -}}
{{- end -}}

{{- /* dict "key" "value" → bytes. 64MiB, 64Mi, 64MB, 64M, or a number. */ -}}
{{- define "nodens.bytes" -}}
{{- $units := dict "" 1 "b" 1 "k" 1000 "kb" 1000 "ki" 1024 "kib" 1024 "m" 1000000 "mb" 1000000 "mi" 1048576 "mib" 1048576 "g" 1000000000 "gb" 1000000000 "gi" 1073741824 "gib" 1073741824 -}}
{{- if kindIs "string" .value -}}
{{- $text := .value | trim -}}
{{- $unit := regexFind "[A-Za-z]*$" $text | lower -}}
{{- if or (not (regexMatch "^[0-9]+(\\.[0-9]+)? *[A-Za-z]*$" $text)) (not (hasKey $units $unit)) -}}
{{- fail (printf "%s: %s is not a size such as 64MiB" .key $text) -}}
{{- end -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units $unit) | int64 -}}
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
