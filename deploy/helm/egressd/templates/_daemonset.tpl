{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
egressd.daemonset is the DaemonSet NAME. Arguments: root, name, component, gateway (it has
listeners), on ("": every node; else a node label that must be there) and off (one that
must not).
*/ -}}
{{- define "egressd.daemonset" -}}
{{- $v := .root.Values -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "egressd.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  selector:
    matchLabels:
      {{- include "egressd.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      {{- if $v.unload }}
      # The daemon must be gone before its programs are removed, or it puts them back.
      maxSurge: 0
      maxUnavailable: "100%"
      {{- else }}
      # The new pod takes over from the old one (--takeover), without a gap.
      maxSurge: 1
      maxUnavailable: 0
      {{- end }}
  template:
    metadata:
      labels:
        {{- include "egressd.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
        {{- /* The labels of a gateway say in its pods which Gateways they serve. */}}
        {{- with merge (dict) ($v.podLabels | default dict) (ternary $v.gateway.selector dict .gateway | default dict) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        kubectl.kubernetes.io/default-container: egressd
        {{- /* New settings are new pods. The policy's files are followed. */}}
        egressd.dev/settings: {{ list $v.mode $v.systemNamespaces $v.clusterCIDRs $v.onFailure $v.drainTime $v.log $v.metrics.expose | toJson | sha256sum | trunc 16 | quote }}
        {{- with $v.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: egressd
      automountServiceAccountToken: {{ not $v.unload }}
      enableServiceLinks: false
      # It listens where the node's processes and pods reach it, and takes the places of
      # ports that the node has.
      hostNetwork: true
      # It finds the processes of pods, and the pins must last with the node's process 1.
      hostPID: true
      dnsPolicy: {{ $v.dnsPolicy }}
      {{- with $v.dnsConfig }}
      dnsConfig:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      priorityClassName: {{ $v.priorityClassName }}
      {{- with $v.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      nodeSelector:
        {{- toYaml $v.nodeSelector | nindent 8 }}
        {{- if .on }}
        {{ .on }}: "true"
        {{- end }}
      {{- if or $v.affinity .off }}
      affinity:
        {{- with $v.affinity }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if .off }}
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - {key: {{ .off }}, operator: NotIn, values: ["true"]}
        {{- end }}
      {{- end }}
      tolerations:
        {{- toYaml $v.tolerations | nindent 8 }}
      terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
      securityContext:
        seccompProfile:
          {{- toYaml $v.seccompProfile | nindent 10 }}
        appArmorProfile:
          {{- toYaml $v.appArmorProfile | nindent 10 }}
        {{- with $v.seLinuxOptions }}
        seLinuxOptions:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      {{- if $v.unload }}
      initContainers:
      - name: unload
        args: [unload]
        {{- include "egressd.container" . | nindent 8 }}
      {{- end }}
      containers:
      - name: egressd
        {{- if $v.unload }}
        # Until the DaemonSet is deleted: a container that ends is started again.
        args: [unload, --stay]
        {{- else }}
        args:
        - run
        - --kubernetes
        - --node-name=$(NODE_NAME)
        - --takeover
        # The kubelet would start the container of before again, which would take over back.
        - --stay
        - --mode=$(MODE)
        - --system-namespaces=$(SYSTEM_NAMESPACES)
        - --cluster-cidr=$(CLUSTER_CIDR)
        - --on-failure=$(ON_FAILURE)
        - --drain-time=$(DRAIN_TIME)
        - --status-address=$(STATUS_ADDRESS)
        - --log-level=$(LOG_LEVEL)
        - --log-format=$(LOG_FORMAT)
        {{- if include "egressd.policy" .root }}
        - --config=/etc/egressd
        {{- end }}
        {{- if .gateway }}
        - --gateway-selector={{ include "egressd.gatewaySelector" .root }}
        {{- end }}
        {{- range $v.dns.servers }}
        - --dns-server={{ . }}
        {{- end }}
        {{- range $v.extraArgs }}
        - {{ . | quote }}
        {{- end }}
        env:
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        {{- with $v.apiServer }}
        {{- if .host }}
        - {name: KUBERNETES_SERVICE_HOST, value: {{ .host | quote }}}
        - {name: KUBERNETES_SERVICE_PORT, value: {{ .port | quote }}}
        {{- end }}
        {{- end }}
        envFrom:
        - configMapRef: {name: egressd}
        # It is started when the daemon of this pod serves: until it has taken over, the
        # ports and the admin socket are those of the pod before.
        startupProbe:
          exec: {command: [/usr/bin/egressd, status, --ready-here]}
          initialDelaySeconds: 1
          periodSeconds: 1
          timeoutSeconds: 5
          failureThreshold: 120
        readinessProbe:
          httpGet: {host: 127.0.0.1, port: 15021, path: /healthz/ready}
          periodSeconds: 5
          timeoutSeconds: 3
        # What a restart mends: loops that are stuck. The kernel goes on meanwhile.
        livenessProbe:
          httpGet: {host: 127.0.0.1, port: 15021, path: /healthz/live}
          periodSeconds: 10
          timeoutSeconds: 6
          failureThreshold: 3
        {{- end }}
        {{- include "egressd.container" . | nindent 8 }}
      volumes:
      - name: bpffs
        hostPath: {path: {{ $v.hostPaths.bpffs }}, type: Directory}
      - name: cgroup
        hostPath: {path: {{ $v.hostPaths.cgroup }}, type: Directory}
      - name: run
        hostPath: {path: {{ $v.hostPaths.run }}, type: DirectoryOrCreate}
      - name: lib
        hostPath: {path: {{ $v.hostPaths.lib }}, type: DirectoryOrCreate}
      - name: pod-logs
        hostPath: {path: {{ $v.hostPaths.podLogs }}, type: DirectoryOrCreate}
      {{- with include "egressd.policy" .root }}
      - name: policy
        configMap: {name: {{ . }}}
      {{- end }}
{{- end }}

{{- /* egressd.container is what all containers have alike. */ -}}
{{- define "egressd.container" -}}
{{- $v := .root.Values -}}
image: {{ include "egressd.image" .root }}
imagePullPolicy: {{ $v.image.pullPolicy }}
securityContext:
  privileged: false
  runAsUser: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add:
    # Attach programs to cgroups, interfaces and routes, end sockets, listen transparently.
    - NET_ADMIN
    # Load programs and look at those that are loaded (bpf(2) asks for no less), and enter
    # pods' network namespaces to end what is open there and no longer allowed.
    - SYS_ADMIN
    # See the network namespaces and sockets of pods' processes, which are other users'.
    - SYS_PTRACE
    # Find a cgroup by the id that the kernel knows it by, and see that it is gone
    # (open_by_handle_at(2)).
    - DAC_READ_SEARCH
    {{- if .gateway }}
    # Listen at ports below 1024 for Gateways.
    - NET_BIND_SERVICE
    {{- end }}
    {{- if $v.bpffs.mount }}
    # Mount the node's bpf filesystem where the node itself sees it (setns(2)).
    - SYS_CHROOT
    {{- end }}
resources:
  {{- toYaml $v.resources | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
# Pins keep the kernel part when a pod is killed, so they are in the node's own bpf
# filesystem. One that the node mounts later is seen as well.
- {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
# The node's tree: containers see a part of it alone. It is written to for the probe of
# what a captured process sees, which has a cgroup of its own.
- {name: cgroup, mountPath: /sys/fs/cgroup, mountPropagation: HostToContainer}
# The admin socket, the lock, and the socket by which the next pod takes over.
- {name: run, mountPath: /run/egressd}
# The last good policy, for a start without the API server.
- {name: lib, mountPath: /var/lib/egressd}
# The kubelet's directories tell which pods are the system's when the API server is away.
- {name: pod-logs, mountPath: /var/log/pods, readOnly: true}
{{- if include "egressd.policy" .root }}
- {name: policy, mountPath: /etc/egressd, readOnly: true}
{{- end }}
{{- end }}
