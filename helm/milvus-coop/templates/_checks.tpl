{{/* What the schema cannot say. A message: what is given, what was expected, what to set. */}}
{{- define "milvus-coop.check" -}}
{{- $v := .Values -}}
{{- include "milvus-coop.checkSecrets" (list "" (omit $v "milvus" "global")) -}}
{{- if not (or $v.milvus.enabled $v.milvusClient.uri) -}}
{{- fail "milvusClient.uri is empty; expected: http(s)://host:19530 of a Milvus server or of Zilliz Cloud; or install one with --set milvus.enabled=true" -}}
{{- end -}}
{{- if and $v.milvus.enabled (contains "." (include "milvus-coop.milvusService" .)) -}}
{{- fail (printf "the service of Milvus would be named %s; expected: a name without dots; set milvus.fullnameOverride" (include "milvus-coop.milvusService" .)) -}}
{{- end -}}
{{- if not (or $v.gateway.apiKeysSecret.name $v.gateway.anonymous) -}}
{{- fail "the gateway has no API keys; expected: gateway.apiKeysSecret.name, a Secret with keys separated by commas; or, if anybody may ask, --set gateway.anonymous=true" -}}
{{- end -}}
{{- if and $v.gateway.keyFiltersSecret.name (not $v.gateway.apiKeysSecret.name) -}}
{{- fail "gateway.keyFiltersSecret is set, but the gateway has no API keys; expected: gateway.apiKeysSecret.name, a Secret with the keys that have an entry in the filters" -}}
{{- end -}}
{{- if and (hasPrefix "/" $v.bundle.name) (not (and (hasPrefix "/bundles/" $v.bundle.name) $v.bundle.existingClaim)) -}}
{{- fail (printf "bundle.name is %s; expected: a shipped bundle, or a folder below /bundles together with bundle.existingClaim" $v.bundle.name) -}}
{{- end -}}
{{- if and (hasPrefix "/" $v.tokenStore.uri) (not (and (hasPrefix "/tokens" $v.tokenStore.uri) $v.tokenStore.existingClaim)) -}}
{{- fail (printf "tokenStore.uri is %s; expected: s3://... and the like, or a folder below /tokens together with tokenStore.existingClaim" $v.tokenStore.uri) -}}
{{- end -}}
{{- if and $v.triton.enabled $v.triton.externalUri -}}
{{- fail "triton.enabled and triton.externalUri are both set; expected: one of them; set triton.enabled=false to use the other server" -}}
{{- end -}}
{{- if and $v.triton.tls.enabled (not $v.triton.tls.secret) -}}
{{- fail "triton.tls.secret is empty; expected: a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and $v.triton.tls.enabled $v.triton.tls.mutual (not $v.triton.tls.clientSecret) -}}
{{- fail "triton.tls.clientSecret is empty; expected: a Secret with the gateway's tls.crt and tls.key, which triton.tls.mutual asks for" -}}
{{- end -}}
{{- with $v.triton.autoscaling -}}
{{- if and .enabled (eq .kind "keda") (not .prometheusUrl) -}}
{{- fail "triton.autoscaling.prometheusUrl is empty; expected: the address that KEDA asks, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.ingress.enabled (not $v.gateway.ingress.host) -}}
{{- fail "gateway.ingress.host is empty; expected: the name of the service, such as search.example.com" -}}
{{- end -}}
{{- if and $v.gateway.tracing.enabled (not $v.gateway.tracing.endpoint) -}}
{{- fail "gateway.tracing.endpoint is empty; expected: the collector's OTLP address over HTTP, such as http://collector.monitoring:4318" -}}
{{- end -}}
{{- if $v.ingest.enabled -}}
{{- if and (gt (int $v.ingest.shards) 1) (not (contains "$(JOB_COMPLETION_INDEX)" (join " " $v.ingest.sources))) -}}
{{- fail "ingest.shards is more than 1, but all shards have the same sources; expected: $(JOB_COMPLETION_INDEX) in ingest.sources, such as /pictures/shard-$(JOB_COMPLETION_INDEX).jsonl" -}}
{{- end -}}
{{- if and (has "/pictures" $v.ingest.sources) (not $v.pictures.existingClaim) -}}
{{- fail "pictures.existingClaim is empty; expected: the claim with the images that ingest.sources names" -}}
{{- end -}}
{{- if eq $v.ingest.engine "ray" -}}{{- include "milvus-coop.checkRay" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "milvus-coop.checkRay" -}}
{{- $v := .Values.ingest -}}
{{- $ray := $v.ray -}}
{{- if $v.schedule -}}
{{- fail "ingest.schedule needs ingest.engine=local; expected: an empty schedule, because KubeRay runs a RayJob once" -}}
{{- end -}}
{{- if gt (int $v.shards) 1 -}}
{{- fail "ingest.shards needs ingest.engine=local; expected: ingest.shards=1, and ingest.ray.cpu.replicas for the number of pods" -}}
{{- end -}}
{{- if and $ray.cpu.replicas $ray.gpu.replicas -}}
{{- fail "ingest.ray.cpu.replicas and ingest.ray.gpu.replicas are both set; expected: one of them, because all workers of a run are alike; set the other to 0" -}}
{{- end -}}
{{- if not (or $ray.cpu.replicas $ray.gpu.replicas) -}}
{{- fail "ingest.ray has no workers; expected: ingest.ray.cpu.replicas or ingest.ray.gpu.replicas of 1 or more" -}}
{{- end -}}
{{- if and $ray.gpu.replicas (gt (int $ray.gpu.count) (int $ray.gpu.workers)) (mod $ray.gpu.count $ray.gpu.workers) -}}
{{- fail (printf "ingest.ray.gpu has %d GPUs for %d workers; expected: a whole number of GPUs for each worker, or a part of one" (int $ray.gpu.count) (int $ray.gpu.workers)) -}}
{{- end -}}
{{- if and (hasPrefix "/" $ray.state) (not (and (hasPrefix "/tokens/" $ray.state) .Values.tokenStore.existingClaim)) -}}
{{- fail (printf "ingest.ray.state is %s; expected: s3://... and the like, or a folder below /tokens together with tokenStore.existingClaim" $ray.state) -}}
{{- end -}}
{{- range $i, $argument := $v.arguments -}}
{{- $name := splitList "=" $argument | first -}}
{{- if has $name (list "--prune" "--sink" "--out") -}}
{{- fail (printf "ingest.arguments[%d] is %s, which needs ingest.engine=local; expected: arguments without it" $i $name) -}}
{{- end -}}
{{- if has $name (list "--engine" "--address" "--workers" "--gpus-per-worker" "--state" "--threads") -}}
{{- fail (printf "ingest.arguments[%d] is %s, which the chart gives; expected: ingest.engine, ingest.ray or ingest.threads" $i $name) -}}
{{- end -}}
{{- $uri := ternary (index (append $v.arguments "") (add1 $i)) (trimPrefix "--uri=" $argument) (eq $argument "--uri") -}}
{{- if eq $name "--uri" -}}{{- include "milvus-coop.checkServer" (list (printf "ingest.arguments[%d]" $i) $uri) -}}{{- end -}}
{{- end -}}
{{- range $i, $entry := $v.extraEnv -}}
{{- if and (eq $entry.name "MILVUS_COOP_URI") (hasKey $entry "value") -}}{{- include "milvus-coop.checkServer" (list (printf "ingest.extraEnv[%d]" $i) $entry.value) -}}{{- end -}}
{{- end -}}
{{- range $word := concat (list $ray.state) $v.arguments $v.sources -}}
{{- if regexMatch "[$][$(]" $word -}}
{{- fail "ingest.sources, ingest.arguments or ingest.ray.state has $( or $$, which is not expanded with ingest.engine=ray, and would be in logs; expected: a variable in ingest.extraEnv" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Arguments: list of where, an address of Milvus. */}}
{{- define "milvus-coop.checkServer" -}}
{{- if not (regexMatch "^https?://" (index . 1)) -}}
{{- fail (printf "%s names a Milvus Lite database, which one process can open; expected with ingest.engine=ray: http(s)://host:19530 of a Milvus server" (index . 0)) -}}
{{- end -}}
{{- end -}}

{{/*
Values end in ConfigMaps and manifests, which more people read than Secrets. Arguments: list of where, a value. The messages name the place only.
abfs://container@account is no password; the user of an http address is half of one.
*/}}
{{- define "milvus-coop.checkSecrets" -}}
{{- $at := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
{{- if and (hasKey $value "name") (hasKey $value "value") (regexMatch "(?i)(SECRET|PASSWORD|TOKEN|API_?KEYS?|ACCESS_KEY|ACCOUNT_KEY|SECRET_KEY|HEADERS|CONNECTION_STRING)$" (toString $value.name)) -}}
{{- fail (printf "%s holds the value of %s; expected: valueFrom.secretKeyRef, with the name and the key of a Secret" $at $value.name) -}}
{{- end -}}
{{- range $key, $item := $value -}}{{- include "milvus-coop.checkSecrets" (list (printf "%s.%s" $at $key | trimPrefix ".") $item) -}}{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $i, $item := $value -}}{{- include "milvus-coop.checkSecrets" (list (printf "%s[%d]" $at $i) $item) -}}{{- end -}}
{{- else if kindIs "string" $value -}}
{{- $address := has $at (list "milvusClient.uri" "triton.externalUri" "triton.autoscaling.prometheusUrl" "gateway.tracing.endpoint") -}}
{{- $named := regexReplaceAll "[^/[:space:]]*:\\$\\([A-Za-z_][A-Za-z0-9_]*\\)@|\\$\\([A-Za-z_][A-Za-z0-9_]*\\)$" $value "" -}}{{/* $(NAME) refers to a secret */}}
{{- if or (and $address (contains "@" $value)) (regexMatch "(?i)(https?|tritons?)://[^/?#[:space:]]+@|://[^/[:space:]]*:[^/[:space:]]+@" $named) -}}
{{- fail (printf "%s has a user or a password in its address; expected: the address alone, and the secret in a Secret: milvusClient.tokenSecret, triton.tokenSecret, or extraEnv by reference" $at) -}}
{{- end -}}
{{- if regexMatch "^--([a-z-]+-)?(token|password|secret|api-key)(=.|$)" $named -}}
{{- fail (printf "%s gives a secret as an argument, which everybody sees; expected: a Secret, such as milvusClient.tokenSecret" $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}
