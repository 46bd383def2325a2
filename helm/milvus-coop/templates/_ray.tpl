{{/* An ingest on a Ray cluster, which KubeRay makes for each run and removes after it. */}}

{{- define "milvus-coop.ingestRayJob" -}}
{{- $v := .Values.ingest -}}
{{- $ray := $v.ray -}}
entrypoint: {{ include "milvus-coop.ingestRayEntrypoint" . | quote }}
submissionMode: K8sJobMode
backoffLimit: {{ $v.retries }} # each retry is a new cluster
activeDeadlineSeconds: {{ $v.deadlineSeconds }}
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: 0 # of the cluster; this object and the log of its submitter stay until the next upgrade
submitterPodTemplate:
  metadata:
    labels:
      {{- include "milvus-coop.selector" (list . "ingest") | nindent 6 }}
  spec:
    {{- include "milvus-coop.ingestPodSpec" (dict "root" . "restartPolicy" "Never" "placement" $v) | nindent 4 }}
    containers:
      - name: submit # KubeRay gives the command
        image: {{ include "milvus-coop.image" (list . $v.image) }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        env:
          - { name: HOME, value: /tmp }
        securityContext:
          {{- include "milvus-coop.containerSecurity" . | nindent 10 }}
        resources:
          requests: { cpu: 100m, memory: 256Mi, ephemeral-storage: 128Mi }
          limits: { memory: 1Gi, ephemeral-storage: 1Gi }
        volumeMounts:
          - { name: tmp, mountPath: /tmp }
    volumes:
      - name: tmp
        emptyDir:
          sizeLimit: 512Mi
rayClusterSpec:
  headGroupSpec:
    rayStartParams:
      num-cpus: "0" # the driver runs here, and no worker
      dashboard-host: "0.0.0.0"
    template:
      {{- include "milvus-coop.ingestPod" (dict "root" . "restartPolicy" "Always" "placement" $v "name" "ray-head" "resources" $ray.head.resources "own" (include "milvus-coop.rayHead" .)) | nindent 6 }}
  workerGroupSpecs:
    {{- $pod := dict "root" . "restartPolicy" "Always" "name" "ray-worker" "own" (include "milvus-coop.rayWorker" .) -}}
    {{- with $ray.cpu }}
    {{- if .replicas }}
    - groupName: cpu
      {{- include "milvus-coop.rayReplicas" .replicas | nindent 6 }}
      rayStartParams:
        num-cpus: {{ mul .workers (max 1 (int $v.threads)) | quote }}
      template:
        {{- include "milvus-coop.ingestPod" (merge (dict "placement" $v "resources" $v.resources) $pod) | nindent 8 }}
    {{- end }}
    {{- end }}
    {{- with $ray.gpu }}
    {{- if .replicas }}
    - groupName: gpu
      {{- include "milvus-coop.rayReplicas" .replicas | nindent 6 }}
      rayStartParams:
        num-cpus: {{ mul .workers (max 1 (int $v.threads)) | quote }}
        num-gpus: {{ .count | quote }}
      {{- $gpu := dict "limits" (dict .resource (int .count)) }}
      template:
        {{- include "milvus-coop.ingestPod" (merge (dict "placement" . "resources" (mergeOverwrite (deepCopy .resources) $gpu)) $pod) | nindent 8 }}
    {{- end }}
    {{- end }}
{{- end -}}

{{- define "milvus-coop.rayReplicas" -}}
replicas: {{ . }}
minReplicas: {{ . }}
maxReplicas: {{ . }}
{{- end -}}

{{/* KubeRay gives the commands of head and workers. Its own probes need wget, which the image does not have. */}}
{{- define "milvus-coop.rayHead" -}}
ports:
  - { name: gcs-server, containerPort: 6379 }
  - { name: dashboard, containerPort: 8265 }
  - { name: client, containerPort: 10001 }
{{ include "milvus-coop.rayProbes" (list "/api/gcs_healthz" "dashboard") }}
{{- end -}}

{{- define "milvus-coop.rayWorker" -}}
ports:
  - { name: agent, containerPort: 52365 }
{{ include "milvus-coop.rayProbes" (list "/api/local_raylet_healthz" "agent") }}
{{- end -}}

{{/* Arguments: list of path, port. */}}
{{- define "milvus-coop.rayProbes" -}}
readinessProbe:
  httpGet: { path: {{ index . 0 }}, port: {{ index . 1 }} }
  initialDelaySeconds: 10
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
livenessProbe:
  httpGet: { path: {{ index . 0 }}, port: {{ index . 1 }} }
  initialDelaySeconds: 30
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
{{- end -}}

{{/* Variables of head and workers. The driver on the head passes its settings on to the workers. */}}
{{- define "milvus-coop.ingestRayEnv" -}}
- { name: RAY_USAGE_STATS_ENABLED, value: "0" }
{{- if .Values.ingest.ray.gpu.replicas }}
- { name: MILVUS_COOP_MODELS, value: {{ .Values.ingest.ray.gpu.models | quote }} }
{{- end }}
{{- end -}}

{{- define "milvus-coop.ingestRayArguments" -}}
{{- $ray := .Values.ingest.ray -}}
{{- $group := ternary $ray.gpu $ray.cpu (gt (int $ray.gpu.replicas) 0) -}}
- --engine=ray
- --address=auto
- --workers={{ mul $group.replicas $group.workers }}
{{- if $ray.gpu.replicas }}
- --gpus-per-worker={{ divf (floor (mulf 10000 (divf $group.count $group.workers))) 10000 }}
{{- end }}
{{- with $ray.state }}
- {{ printf "--state=%s" . | quote }}
{{- end }}
{{- end -}}

{{/* A line for a shell: KubeRay puts it into one, and Ray into another, which gets the same words. */}}
{{- define "milvus-coop.ingestRayEntrypoint" -}}
milvus-coop
{{- range include "milvus-coop.ingestArguments" . | fromYamlArray }}
{{- if regexMatch "^[A-Za-z0-9_./:=@%+,-]+$" . }} {{ . }}{{ else }} '{{ . | replace "'" `'\''` }}'{{ end }}
{{- end }}
{{- end -}}
