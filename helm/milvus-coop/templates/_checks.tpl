{{/* What the schema cannot say. A message: what is given, what was expected, what to set. */}}
{{- define "milvus-coop.check" -}}
{{- $v := .Values -}}
{{- if not (or $v.milvus.enabled $v.milvusClient.uri) -}}
{{- fail "milvusClient.uri is empty; expected: http(s)://host:19530 of a Milvus server or of Zilliz Cloud; or install one with --set milvus.enabled=true" -}}
{{- end -}}
{{- if not (or $v.gateway.apiKeysSecret.name $v.gateway.anonymous) -}}
{{- fail "the gateway has no API keys; expected: gateway.apiKeysSecret.name, a Secret with keys separated by commas; or, if anybody may ask, --set gateway.anonymous=true" -}}
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
{{- fail "pictures.existingClaim is empty; expected: the claim with the pictures that ingest.sources names" -}}
{{- end -}}
{{- end -}}
{{- end -}}
