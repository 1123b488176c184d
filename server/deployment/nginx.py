"""What is published: nginx, which asks each site for its certificate and passes on only what a SuperNode needs.

The SuperLink serves its Fleet, Control and Runtime interfaces on one port, the latter two without authentication, so
it listens on the loopback address alone. nginx answers

- 400 to whoever shows no certificate of our authority, 401 to one that is not on the list (a SuperNode ends then),
- 404 to any path but those below (never 403, which a SuperNode reads as "the run has ended"),
- 502 or 504 while the SuperLink is down, upon which a SuperNode tries again.
"""

from __future__ import annotations

from string import Template

from mmmed.files import write_atomic
from server.deployment.folder import Folder, Settings
from server.deployment.sites import SiteEntry, read_sites

# The Fleet interface but for register-node and unregister-node, which are the coordinator's alone.
PUBLISHED = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)

_TEMPLATE = Template("""\
# Written by mmmed; edits are lost. For the system's nginx, include what is between http's braces.
worker_processes 1;
pid "$root/nginx/nginx.pid";
error_log stderr warn;
events { worker_connections 1024; }
http {
    access_log off;
    server_tokens off;
    client_body_temp_path "$root/nginx/body";
    proxy_temp_path "$root/nginx/proxy";
    fastcgi_temp_path "$root/nginx/fastcgi";
    uwsgi_temp_path "$root/nginx/uwsgi";
    scgi_temp_path "$root/nginx/scgi";

    # The certificates that may connect, by serial number.
    map $$ssl_client_serial $$site {
        default "";
$sites
    }

    upstream superlink {
        server 127.0.0.1:$link_port max_fails=0;
        keepalive 16;
        keepalive_timeout 4s;  # below the SuperLink's own 5 s, or a request may meet a closing connection
    }

    server {
        listen $listen:$port ssl;
        ssl_certificate "$root/server.crt";
        ssl_certificate_key "$root/server.key";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate "$root/ca/ca.crt";
        ssl_verify_client on;
        client_max_body_size 32m;
        client_body_timeout 60s;
        keepalive_timeout 75s;

        location ~ ^/v1/fleet/($paths)$$ {
            if ($$site = "") { return 401; }
            proxy_pass https://superlink/v1/fleet/$$1;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $$host;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_trusted_certificate "$root/ca/ca.crt";
            proxy_next_upstream off;
            proxy_request_buffering off;  # updates never touch this machine's disk on their way
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 5s;
            proxy_read_timeout 60s;
        }
        location / { return 404; }
    }
}
""")


def write_configuration(folder: Folder) -> None:
    """Write nginx/nginx.conf for the sites that may connect now."""
    write_atomic(folder.nginx / "nginx.conf", configuration(folder, folder.settings, read_sites(folder)))


def configuration(folder: Folder, settings: Settings, sites: list[SiteEntry]) -> str:
    """The text of nginx.conf, which lets the sites connect that are not revoked."""
    allowed = [f'        "{site.serial}" "{site.name}";' for site in sites if not site.revoked]
    return _TEMPLATE.substitute(
        root=folder.path,
        sites="\n".join(allowed),
        link_port=settings.link_port,
        listen=f"[{settings.listen}]" if ":" in settings.listen else settings.listen,
        port=settings.port,
        paths="|".join(PUBLISHED),
    )
