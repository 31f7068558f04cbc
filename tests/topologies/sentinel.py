"""A master, its replicas and the sentinels that watch them, as real processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.redis_process import (
    HOST,
    RedisProcess,
    free_port,
    ready,
    start_redis,
    temporary_folder,
    wait_for,
)

MASTER = "mymaster"


def start_sentinel(
    master_port: int,
    name: str = MASTER,
    quorum: int = 1,
    *config: str,
    cwd: Path | None = None,
    ask_with: Mapping[str, Any] | None = None,
) -> RedisProcess:
    """A sentinel that watches the master; ``config`` are more lines of its configuration."""
    port = free_port()
    folder = cwd or temporary_folder()
    file = Path(folder if isinstance(folder, Path) else folder.name, f"sentinel-{port}.conf")
    lines = [
        f"port {port}",
        f"bind {HOST}",
        f"sentinel monitor {name} {HOST} {master_port} {quorum}",
        *config,
    ]
    file.write_text("".join(f"{line}\n" for line in lines))  # which a sentinel rewrites
    return ready(RedisProcess([str(file), "--sentinel"], port, folder, ask_with))


class Replicated:
    """What ``start_replicated`` has started. A context manager that stops it.

    ``servers`` has the first master and then its replicas; who is master now, the sentinels say.
    """

    def __init__(self, password: str | None = None, sentinel_password: str | None = None) -> None:
        self.servers: list[RedisProcess] = []
        self.sentinels: list[RedisProcess] = []
        self._password = password
        self._sentinel_password = sentinel_password
        self._folder = temporary_folder()

    @property
    def processes(self) -> list[RedisProcess]:
        return [*self.servers, *self.sentinels]

    @property
    def url(self) -> str:
        """With the passwords that there are."""
        user = f":{self._password}@" if self._password else ""
        addresses = ",".join(sentinel.address for sentinel in self.sentinels)
        url = f"redis-sentinel://{user}{addresses}/0?master={MASTER}"
        if self._password or self._sentinel_password:
            url += f"&sentinel_password={self._sentinel_password or ''}"
        return url

    def master(self) -> RedisProcess:
        """Whom most of the sentinels that answer name."""
        ports = [port for port in map(_master_port, self._watching()) if port]
        if not ports:
            raise RuntimeError("no sentinel answers")
        return self._server_of(max(set(ports), key=ports.count))

    def replicas(self) -> list[RedisProcess]:
        """Those servers that answer and are not the master."""
        master = self.master()
        return [server for server in self._serving() if server is not master]

    def kill_master(self) -> RedisProcess:
        """The one that is dead now; the sentinels have yet to notice."""
        master = self.master()
        master.kill()
        return master

    def fail_over(self) -> RedisProcess:
        """Have the sentinels appoint another master, though this one is well; the new one."""
        old = self.master()
        self._watching()[0].ask("SENTINEL", "FAILOVER", MASTER)
        return self.wait_for_switch(old)

    def wait_for_switch(self, old: RedisProcess, within: float = 30.0) -> RedisProcess:
        """The new master, once every sentinel that answers names it and it is one."""

        def is_switched() -> bool:
            ports = set(map(_master_port, self._watching())) - {None}
            return len(ports) == 1 and old.port not in ports and _is_master(self.master())

        wait_for(is_switched, lambda: f"{old.address} is still the master", within)
        return self.master()

    def restart(self, process: RedisProcess, *, rejoins: bool = True) -> None:
        """Start a dead server or sentinel again.

        A server is a replica of the present master from its first breath. With ``rejoins=False`` it
        is a master with the data it has on disk, until the sentinels see to it (some 10 s).
        """
        if process in self.sentinels or not rejoins:
            process.start_again()
        else:
            process.start_again("--replicaof", HOST, str(self.master().port))

    def wait_until_whole(self, within: float = 30.0) -> None:
        """Return once all that answer know each other, and the replicas are in step with the master."""
        wait_for(self._is_whole, lambda: f"not whole: {self._views()}", within)

    def _is_whole(self) -> bool:
        """Of sentinels, the dead are known to the others too."""
        serving, others = self._serving(), len(self.sentinels) - 1
        attached = {server.port for server in serving if _is_attached(server)}
        return (
            len(attached) == len(serving) - 1
            and all(
                view["flags"] == "master" and int(view["num-other-sentinels"]) == others
                for view in self._views()
            )
            and all(attached <= _replica_ports(sentinel) for sentinel in self._watching())
        )

    def _views(self) -> list[dict[str, str]]:
        return [_named(sentinel.ask("SENTINEL", "MASTER", MASTER)) for sentinel in self._watching()]

    def _serving(self) -> list[RedisProcess]:
        return [server for server in self.servers if server.is_answering]

    def _watching(self) -> list[RedisProcess]:
        return [sentinel for sentinel in self.sentinels if sentinel.is_answering]

    def _server_of(self, port: int) -> RedisProcess:
        return next(server for server in self.servers if server.port == port)

    def start_servers(self, count: int, args: Sequence[str]) -> None:
        secret = self._password
        passwords = ("--requirepass", secret, "--masterauth", secret) if secret else ()
        for index in range(count):
            server = start_redis(
                *("--repl-diskless-sync-delay", "0", *passwords, *args),
                cwd=self._subfolder(f"server-{index}"),
                ask_with={"password": secret},
            )
            self.servers.append(server)
            if index:
                server.ask("REPLICAOF", HOST, str(self.servers[0].port))
        wait_for(lambda: all(map(_is_attached, self.servers[1:])), lambda: "no replica attaches")

    def start_sentinels(self, count: int, config: Sequence[str]) -> None:
        for index in range(count):
            sentinel = start_sentinel(
                self.servers[0].port,
                MASTER,
                count // 2 + 1,
                *self._sentinel_settings(),
                *config,
                cwd=self._subfolder(f"sentinel-{index}"),
                ask_with={"password": self._sentinel_password},
            )
            self.sentinels.append(sentinel)
            with suppress(ResponseError):  # which Redis 6.2 does not know
                # Every 10 s by default: so long would a test wait for what a sentinel knows.
                sentinel.ask("SENTINEL", "DEBUG", "info-period", "1000")
        self.wait_until_whole()

    def _sentinel_settings(self) -> list[str]:
        settings = [
            f"sentinel down-after-milliseconds {MASTER} 1000",
            f"sentinel failover-timeout {MASTER} 5000",
            f"sentinel parallel-syncs {MASTER} 1",
        ]
        if self._password:
            settings.append(f"sentinel auth-pass {MASTER} {self._password}")
        if self._sentinel_password:
            settings.append(f"requirepass {self._sentinel_password}")
            settings.append(f"sentinel sentinel-pass {self._sentinel_password}")
        return settings

    def _subfolder(self, name: str) -> Path:
        folder = Path(self._folder.name, name)
        folder.mkdir()
        return folder

    def stop(self) -> None:
        for process in (*self.sentinels, *self.servers):
            process.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_replicated(
    replicas: int = 2,
    sentinels: int = 3,
    *redis_args: str,
    password: str | None = None,
    sentinel_password: str | None = None,
    sentinel_config: Sequence[str] = (),
) -> Replicated:
    """A master with replicas, watched by sentinels that agree by majority that it is dead.

    They call a master dead after a second of silence. ``redis_args`` are more arguments of master
    and replicas, ``sentinel_config`` more lines of the sentinels' configuration. Returns once all
    know each other.
    """
    replicated = Replicated(password, sentinel_password)
    try:
        replicated.start_servers(1 + replicas, redis_args)
        replicated.start_sentinels(sentinels, sentinel_config)
    except BaseException:
        replicated.stop()
        raise
    return replicated


def _master_port(sentinel: RedisProcess) -> int | None:
    answer = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
    return int(answer[1]) if answer else None


def _replica_ports(sentinel: RedisProcess) -> set[int]:
    """Of the replicas that it finds in step with their master."""
    replicas = map(_named, sentinel.ask("SENTINEL", "REPLICAS", MASTER))
    return {int(r["port"]) for r in replicas if r["master-link-status"] == "ok"}


def _is_attached(server: RedisProcess) -> bool:
    return _replication(server).get("master_link_status") == "up"


def _is_master(server: RedisProcess) -> bool:
    return server.is_answering and _replication(server).get("role") == "master"


def _replication(server: RedisProcess) -> dict[str, Any]:
    """Nothing of one that hangs up on everybody at this moment, as it takes another part."""
    try:
        answer: dict[str, Any] = server.ask("INFO", "replication")
    except RedisConnectionError:
        return {}
    return answer


def _named(flat: Sequence[bytes]) -> dict[str, str]:
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
