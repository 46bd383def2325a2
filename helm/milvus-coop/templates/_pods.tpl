{{/* Parts of pods. */}}

{{/* The level `restricted` of the pod security standards, for a pod. */}}
{{- define "milvus-coop.podSecurity" -}}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with index $.Values.podSecurity $key }}
{{ $key }}: {{ int . }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* And for a container. */}}
{{- define "milvus-coop.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "milvus-coop.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Arguments: list of name, Secret's values (name and key). */}}
{{- define "milvus-coop.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ (index . 1).name | quote }}
      key: {{ (index . 1).key | quote }}
{{- end -}}

{{/* Variables of everything that talks to Milvus and to the models; what is no secret comes from the ConfigMap. */}}
{{- define "milvus-coop.clientEnv" -}}
{{- $v := .Values -}}
- name: HOME # the image's own may not exist for this user
  value: /tmp
{{- with $v.milvusClient.tokenSecret }}
{{- if .name }}
{{ include "milvus-coop.secretEnv" (list "MILVUS_COOP_TOKEN" .) }}
{{- end }}
{{- end }}
{{- if and $v.triton.enabled $v.triton.keySecret.name }}
{{ include "milvus-coop.secretEnv" (list "TRITON_KEY" $v.triton.keySecret) }}
- name: MILVUS_COOP_TRITON_HEADERS
  value: triton-grpc-protocol-key=$(TRITON_KEY)
{{- end }}
{{- if and $v.triton.externalUri $v.triton.tokenSecret.name }}
{{ include "milvus-coop.secretEnv" (list "MILVUS_COOP_TRITON_TOKEN" $v.triton.tokenSecret) }}
{{- end }}
{{- end -}}

{{/* Arguments: list of root, whether the volumes may be written to. */}}
{{- define "milvus-coop.clientMounts" -}}
{{- $v := (index . 0).Values -}}
- name: tmp
  mountPath: /tmp
{{- if $v.bundle.existingClaim }}
- name: bundles
  mountPath: /bundles
  readOnly: true
{{- end }}
{{- if $v.tokenStore.existingClaim }}
- name: tokens
  mountPath: /tokens
  {{- if not (index . 1) }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if $v.pictures.existingClaim }}
- name: pictures
  mountPath: /pictures
  readOnly: true
  {{- with $v.pictures.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
{{- end }}
{{- if $v.milvusClient.caSecret.name }}
- name: milvus-ca
  mountPath: /etc/milvus-coop/milvus
  readOnly: true
{{- end }}
{{- if and $v.triton.enabled $v.triton.tls.enabled }}
- name: triton-tls
  mountPath: /etc/milvus-coop/triton
  readOnly: true
{{- end }}
{{- end -}}

{{- define "milvus-coop.clientVolumes" -}}
{{- $v := .Values -}}
- name: tmp
  emptyDir:
    sizeLimit: 2Gi
{{- with $v.bundle.existingClaim }}
- name: bundles
  persistentVolumeClaim:
    claimName: {{ . | quote }}
    readOnly: true
{{- end }}
{{- with $v.tokenStore.existingClaim }}
- name: tokens
  persistentVolumeClaim:
    claimName: {{ . | quote }}
{{- end }}
{{- with $v.pictures.existingClaim }}
- name: pictures
  persistentVolumeClaim:
    claimName: {{ . | quote }}
    readOnly: true
{{- end }}
{{- with $v.milvusClient.caSecret }}
{{- if .name }}
- name: milvus-ca
  secret:
    secretName: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- if and $v.triton.enabled $v.triton.tls.enabled }}
- name: triton-tls
  projected: # the server's private key stays with the server
    sources:
      - secret:
          name: {{ $v.triton.tls.secret | quote }}
          items:
            - key: ca.crt
              path: ca.crt
      {{- if $v.triton.tls.mutual }}
      - secret:
          name: {{ $v.triton.tls.clientSecret | quote }}
          items:
            - key: tls.crt
              path: tls.crt
            - key: tls.key
              path: tls.key
      {{- end }}
{{- end }}
{{- end -}}

{{/* Arguments: list of root, component. */}}
{{- define "milvus-coop.spread" -}}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "milvus-coop.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* Argument: values with nodeSelector, tolerations, affinity. */}}
{{- define "milvus-coop.placement" -}}
{{- $given := pick . "nodeSelector" "tolerations" "affinity" -}}
{{- range $key, $value := $given }}{{ if not $value }}{{ $_ := unset $given $key }}{{ end }}{{ end -}}
{{- with $given }}{{ toYaml . }}{{ end -}}
{{- end -}}
