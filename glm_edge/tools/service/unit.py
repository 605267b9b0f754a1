"""The text of the unit file, for the machine or for one user. Pure.

The system unit runs as a user of its own that systemd makes up (DynamicUser). It sees no home, no devices and, unless
it listens beyond loopback, no network but loopback. The user unit keeps what needs no privileges. Both forbid memory
that is writable and executable: llama.cpp makes no code, and libffi's callbacks have had no need of it since 3.4.
ProcSubset=pid is left out: the memory plan reads /proc/meminfo, the choice of threads /proc/cpuinfo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAME = "glm-edge"
UNIT = f"{NAME}.service"
MARK = f"# Written by {NAME} service install; removed by {NAME} service remove."
GRACE_S = 30  # that running answers have to end
_STOP_S = GRACE_S + 15  # after which systemd kills it; more than the grace and what comes after it
_START_S = 1800  # to read the largest file from the slowest card
_CREDENTIAL = "api-keys"

_EVERYWHERE = """\
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""
_SYSTEM = """\
DynamicUser=yes
StateDirectory={name}
CacheDirectory={name}
ConfigurationDirectory={name}
Environment=HOME=/var/lib/{name} XDG_DATA_HOME=/var/lib XDG_CACHE_HOME=/var/cache XDG_CONFIG_HOME=/etc
WorkingDirectory=/var/lib/{name}
CapabilityBoundingSet=
AmbientCapabilities=
DevicePolicy=closed
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
"""
_LOOPBACK = "IPAddressDeny=any\nIPAddressAllow=localhost\n"


@dataclass(frozen=True)
class Service:
    """What the service runs.

    Args:
        program: the Python that GLM Edge is installed in, an absolute path.
        model: the GGUF file, an absolute path; None is what `serve` takes by itself.
        key_file: one key a line. The system unit hands it over as a credential, so that root alone can read it.
        loopback: whether `host` is this machine's own address.
        user: whether it is a unit of one user's own service manager.
    """

    program: Path
    model: Path | None
    host: str
    port: int
    key_file: Path | None = None
    loopback: bool = True
    user: bool = False


def unit_text(service: Service) -> str:
    """The unit file."""
    command = [str(service.program), "-m", "glm_edge", "serve", "--host", service.host, "--port", str(service.port)]
    command += ["--grace", str(GRACE_S)]
    waits = lines = ""
    if service.model is not None:
        command += ["--model", str(service.model)]
        path = _escaped(str(service.model))
        waits = f'RequiresMountsFor="{path}"\nConditionPathExists={path}\n'
    words = [_quoted(word) for word in command]
    if service.key_file is not None and service.user:
        words += ["--api-key-file", _quoted(str(service.key_file))]
    elif service.key_file is not None:
        words += ["--api-key-file", f"${{CREDENTIALS_DIRECTORY}}/{_CREDENTIAL}"]
        lines = f"LoadCredential={_CREDENTIAL}:{_escaped(str(service.key_file))}\n"
    hardening = _EVERYWHERE
    if not service.user:
        in_home = any(_below_home(path) for path in (service.program, service.model) if path is not None)
        hardening += _SYSTEM.format(name=NAME, home="read-only" if in_home else "yes")
        hardening += _LOOPBACK if service.loopback else ""
    target = "default.target" if service.user else "multi-user.target"
    return f"""\
{MARK}
[Unit]
Description=GLM Edge, ChatGLM2-6B at port {service.port}
After=network.target
{waits}
[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(words)}
TimeoutStartSec={_START_S}
TimeoutStopSec={_STOP_S}
KillMode=mixed
Restart=on-failure
RestartSec=5
# wrong options, a broken file and an unknown model do not mend by themselves
RestartPreventExitStatus=2 3 4 5
{lines}{hardening}
[Install]
WantedBy={target}
"""


def _below_home(path: Path) -> bool:
    """Whether ProtectHome=yes would hide it."""
    return path.parts[1:2] in (("home",), ("root",))


def _escaped(text: str) -> str:
    """% begins a specifier everywhere in a unit file."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a command line; $ begins a variable there."""
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_escaped(plain)}"'
