{{- define "quire.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "quire.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "quire.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "quire.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "quire.selector" -}}
app.kubernetes.io/name: {{ include "quire.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quire.labels" -}}
{{ include "quire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "quire.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{- $suffix := ternary "-cuda" "" (gt (int .Values.gpu.count) 0) -}}
{{ .Values.image.repository }}:{{ default (printf "%s%s" .Chart.AppVersion $suffix) .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "quire.claim" -}}
{{- default (printf "%s-models" (include "quire.fullname" .)) .Values.model.claim.existingClaim }}
{{- end }}

{{/* Arguments of `quire serve`, those of the model left out. */}}
{{- define "quire.args" -}}
- --models-dir=/models
- --host=0.0.0.0
- --port={{ .Values.ports.http }}
- --health-port={{ .Values.ports.health }}
{{- with .Values.ports.grpc }}
- --grpc-port={{ . }}
{{- end }}
- --shutdown-delay={{ .Values.drain.delaySeconds }}s
- --shutdown-timeout={{ .Values.drain.timeoutSeconds }}s
- --metrics-without-key
{{- if .Values.keysFile.existingSecret }}
- --keys-file=/etc/quire/{{ .Values.keysFile.key }}
{{- end }}
- --device={{ ternary "cuda" "cpu" (gt (int .Values.gpu.count) 0) }}
{{- if gt (int .Values.gpu.count) 1 }}
- --tensor-parallel-size={{ .Values.gpu.count }}
{{- end }}
{{- range .Values.model.servedNames }}
- --served-model-name={{ . }}
{{- end }}
{{- with .Values.args }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "quire.probe" -}}
httpGet: {path: {{ .path }}, port: health}
{{ toYaml .timing }}
{{- end }}

{{/* The Pod of a server, without its metadata: of the Deployment and of a LeaderWorkerSet. */}}
{{- define "quire.pod" -}}
{{- $gpus := int .Values.gpu.count -}}
automountServiceAccountToken: false
# Variables like QUIRE_PORT, which Kubernetes makes for a Service of that name, are not flags of the server.
enableServiceLinks: false
{{- with .Values.serviceAccount.name }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# preStop, delay and timeout one after the other, and a little for the exit.
terminationGracePeriodSeconds: {{ add .Values.drain.preStopSeconds .Values.drain.delaySeconds .Values.drain.timeoutSeconds 15 }}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- if and .Values.model.download.enabled (eq .Values.model.source "claim") }}
initContainers:
  - name: download
    image: {{ include "quire.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    terminationMessagePolicy: FallbackToLogsOnError
    args: [pull, {{ required "model.download.name" .Values.model.download.name | quote }}, --models-dir=/models]
    {{- with .Values.model.download.environmentSecret }}
    envFrom:
      - secretRef: {name: {{ . }}}
    {{- end }}
    securityContext: {{- toYaml .Values.containerSecurityContext | nindent 6 }}
    resources:
      requests: {cpu: 250m, memory: 256Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: models, mountPath: /models}
{{- end }}
containers:
  - name: quire
    image: {{ include "quire.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    # Why it ended is in `kubectl describe pod`.
    terminationMessagePolicy: FallbackToLogsOnError
    args:
      - serve
      - {{ .Values.model.name | quote }}
      {{- include "quire.args" . | nindent 6 }}
    env:
      - {name: QUIRE_LOG_LEVEL, value: {{ .Values.logging.level | quote }}}
      - {name: QUIRE_LOG_FORMAT, value: {{ .Values.logging.format | quote }}}
      {{- with .Values.apiKey.existingSecret }}
      - name: QUIRE_API_KEY
        valueFrom:
          secretKeyRef: {name: {{ . }}, key: {{ $.Values.apiKey.key }}}
      {{- end }}
      {{- with .Values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {name: http, containerPort: {{ .Values.ports.http }}}
      - {name: health, containerPort: {{ .Values.ports.health }}}
      {{- with .Values.ports.grpc }}
      - {name: grpc, containerPort: {{ . }}}
      {{- end }}
    startupProbe:
      {{- include "quire.probe" (dict "path" "/startupz" "timing" .Values.probes.startup) | nindent 6 }}
    readinessProbe:
      {{- include "quire.probe" (dict "path" "/readyz" "timing" .Values.probes.readiness) | nindent 6 }}
    livenessProbe:
      {{- include "quire.probe" (dict "path" "/livez" "timing" .Values.probes.liveness) | nindent 6 }}
    {{- if .Values.drain.preStopSeconds }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ .Values.drain.preStopSeconds }}}
    {{- end }}
    securityContext: {{- toYaml .Values.containerSecurityContext | nindent 6 }}
    resources:
      {{- $limits := deepCopy (default (dict) .Values.resources.limits) }}
      {{- if $gpus }}
      {{- $_ := set $limits .Values.gpu.resource $gpus }}
      {{- end }}
      {{- toYaml (merge (dict "limits" $limits) .Values.resources) | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models, readOnly: true}
      {{- if .Values.keysFile.existingSecret }}
      - {name: keys, mountPath: /etc/quire, readOnly: true}
      {{- end }}
volumes:
  {{- with .Values.keysFile.existingSecret }}
  - name: keys
    secret: {secretName: {{ . }}}
  {{- end }}
  - name: models
    {{- if eq .Values.model.source "image" }}
    image:
      reference: {{ required "model.image.reference" .Values.model.image.reference }}
      pullPolicy: {{ .Values.model.image.pullPolicy }}
    {{- else }}
    persistentVolumeClaim: {claimName: {{ include "quire.claim" . }}}
    {{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- with .Values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "quire.selector" . | nindent 8 }}
  {{- end }}
{{- end }}
