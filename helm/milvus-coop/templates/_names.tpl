{{/* Names and labels. */}}

{{/* The name of a Service has no dot and begins with a letter; a release's name may have the one and begin with a digit. */}}
{{- define "milvus-coop.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $label := default $full .Values.fullnameOverride | replace "." "-" -}}
{{- ternary (printf "r-%s" $label) $label (regexMatch "^[0-9]" $label) | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a bundle, or of the last folder of its path, as part of a name; with a hash of the whole name, if that is more than the slug. */}}
{{- define "milvus-coop.bundleSlug" -}}
{{- $name := .Values.bundle.name -}}
{{- $slug := base $name | lower | replace "_" "-" | replace "." "-" -}}
{{- if and (eq $slug $name) (le (len $slug) 18) (eq $slug (trimAll "-" $slug)) -}}
{{- $slug -}}
{{- else -}}
{{- printf "%s-%s" ($slug | trunc 11 | trimAll "-") (sha256sum $name | trunc 6) | trimPrefix "-" -}}
{{- end -}}
{{- end -}}

{{/* Claims that one node or many nodes may mount have different names, because the access mode of a claim cannot be changed. */}}
{{- define "milvus-coop.plansClaim" -}}
{{- $cache := .Values.triton.planCache -}}
{{- $own := printf "%s-triton-plans%s" (include "milvus-coop.fullname" .) (ternary "-shared" "" (eq $cache.accessMode "ReadWriteMany")) -}}
{{- default $own $cache.existingClaim -}}
{{- end -}}

{{/* Named for its bundle, so that clients of one bundle never meet pods that serve another. */}}
{{- define "milvus-coop.tritonService" -}}
{{- printf "%s-triton-%s" (include "milvus-coop.fullname" .) (include "milvus-coop.bundleSlug" .) -}}
{{- end -}}

{{/* What the Milvus chart calls its service. */}}
{{- define "milvus-coop.milvusService" -}}
{{- $milvus := .Values.milvus -}}
{{- $name := default "milvus" $milvus.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full $milvus.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "milvus-coop.serviceAccount" -}}
{{- default (ternary (include "milvus-coop.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Arguments: list of root, component. */}}
{{- define "milvus-coop.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "milvus-coop.labels" -}}
{{- $root := index . 0 -}}
{{ include "milvus-coop.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: milvus-coop
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Arguments: list of root, an image's values. */}}
{{- define "milvus-coop.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- $tag := coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion -}}
{{- ternary (printf "%s@%s" $name $image.digest) (printf "%s:%s" $name $tag) (ne $image.digest "") -}}
{{- end -}}
