// SPDX-License-Identifier: Apache-2.0

package main

// originConf: directory, address, gateway port, upload port. The answer is 512 bytes, or
// a large one from a file; nginx by itself answers before it has read what is sent.
const originConf = `daemon off; user root; worker_processes 1; worker_rlimit_nofile 65536; pid %[1]s/origin.pid; error_log stderr crit;
events { worker_connections 32768; multi_accept on; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;
  ssl_certificate %[1]s/bench.crt; ssl_certificate_key %[1]s/bench.key; ssl_session_cache off; ssl_session_tickets off;
  server {
    listen %[2]s:80 backlog=8192; listen %[2]s:443 ssl backlog=8192; listen %[2]s:%[3]d ssl backlog=8192;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519;
    client_max_body_size 0;
    location / { default_type text/plain; return 200 "` + payload + `"; }
    location = ` + largePath + ` { root %[1]s; sendfile on; }
    location = ` + uploadPath + ` { proxy_pass http://%[2]s:%[4]d; proxy_http_version 1.1; proxy_request_buffering off; }
  }
}
`

// nginxConf: directory, origin, host, TCP port, TLS port, gateway port. One worker,
// keep-alive to the origin, TLS by SNI without decryption; at the gateway port TLS
// ends, by what egressd agrees on with the same client. Both give out tickets, which
// the client does not use.
const nginxConf = `daemon off; user root; worker_processes 1; worker_rlimit_nofile 65536; pid %[1]s/nginx.pid; error_log stderr crit;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events { worker_connections 32768; multi_accept on; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;
  upstream origin { server %[2]s:80; keepalive 4096; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.2:80 backlog=8192;
    client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
  }
  server {
    listen 127.0.0.2:%[6]d ssl backlog=8192;
    ssl_certificate %[1]s/bench.crt; ssl_certificate_key %[1]s/bench.key; ssl_session_cache off;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519;
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
    location /direct { default_type text/plain; return 200 "` + payload + `"; }
  }
}
stream {
  map $ssl_preread_server_name $by_name { %[3]s %[2]s:$server_port; default 127.0.0.2:1; }
  server { listen 127.0.0.2:443 backlog=8192; listen 127.0.0.2:%[5]d backlog=8192; ssl_preread on; proxy_pass $by_name; }
  server { listen 127.0.0.2:%[4]d backlog=8192; proxy_pass %[2]s:%[4]d; }
}
`

// nginxCloseConf: directory, origin. nginx as it comes: a connection to the origin
// for each request. It is for HTTP only.
const nginxCloseConf = `daemon off; user root; worker_processes 1; worker_rlimit_nofile 65536; pid %[1]s/nginx-close.pid; error_log stderr crit;
events { worker_connections 32768; multi_accept on; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;
  upstream origin { server %[2]s:80; }
  server {
    listen 127.0.0.5:80 backlog=8192;
    client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Host $host; }
  }
}
`

// haproxyConf: origin, host, TCP port, TLS port. The same as nginxConf.
const haproxyConf = `global
  nbthread 1
  maxconn 4096
defaults
  timeout connect 10s
  timeout client 300s
  timeout server 300s
  option splice-auto
frontend http
  mode http
  bind 127.0.0.3:80 backlog 8192
  default_backend http
backend http
  mode http
  http-reuse always
  server origin %[1]s:80
frontend tls
  mode tcp
  bind 127.0.0.3:443 backlog 8192
  bind 127.0.0.3:%[4]d backlog 8192
  tcp-request inspect-delay 5s
  tcp-request content accept if { req_ssl_hello_type 1 }
  use_backend tls if { req_ssl_sni -i %[2]s }
backend tls
  mode tcp
  server origin %[1]s
listen tcp
  mode tcp
  bind 127.0.0.3:%[3]d backlog 8192
  server origin %[1]s:%[3]d
`

// sniproxyConf: directory, origin, host, TLS port. It knows HTTP and TLS by
// name and no opaque TCP.
const sniproxyConf = `user root
pidfile %[1]s/sniproxy.pid
error_log {
  filename %[1]s/sniproxy.log
  priority crit
}
listen 127.0.0.4:80 {
  proto http
  table http
}
listen 127.0.0.4:443 {
  proto tls
  table tls
}
listen 127.0.0.4:%[4]d {
  proto tls
  table streams
}
table http {
  %[3]s %[2]s:80
}
table tls {
  %[3]s %[2]s:443
}
table streams {
  %[3]s %[2]s:%[4]d
}
`

// egressdConf: host, TCP port, TLS port, virtual address, origin.
const egressdConf = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: bench
spec:
  hosts:
  - %[1]s
  ports:
  - number: 80
    name: http
    protocol: HTTP
  - number: 443
    name: https
    protocol: HTTPS
  - number: %[2]d
    name: tcp
    protocol: TCP
  - number: %[3]d
    name: streams
    protocol: TLS
  location: MESH_EXTERNAL
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: virtual
spec:
  hosts:
  - virtual.example.com
  addresses:
  - %[4]s
  ports:
  - number: %[2]d
    name: tcp
    protocol: TCP
  resolution: STATIC
  endpoints:
  - address: %[5]s
`

// sharedConf: host. Connections to the origin that nobody uses are kept for others.
const sharedConf = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: bench
spec:
  host: %[1]s
  trafficPolicy:
    connectionPool:
      http:
        idleTimeout: 300s
`

// gatewayConf: host, address, port, directory. Visitors' TLS ends here; the way to the
// origin is that of egressdConf.
const gatewayConf = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: bench
spec:
  selector: {bench: gateway}
  servers:
  - port: {number: %[3]d, name: https, protocol: HTTPS}
    bind: %[2]s
    hosts: [%[1]s]
    tls: {mode: SIMPLE, serverCertificate: %[4]s/bench.crt, privateKey: %[4]s/bench.key}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: gateway
spec:
  hosts: [%[1]s]
  gateways: [bench]
  http:
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 200, body: {string: "` + payload + `"}}
  - route: [{destination: {host: %[1]s, port: {number: 80}}}]
`

const (
	line64  = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-."
	line256 = line64 + line64 + line64 + line64
	payload = line256 + line256
)
