"""A session of the public QMP client `qemu.qmp` (PyPI) with a server.

usage: qmp_client.py SOCKET

The machine behind the socket must be in run state prelaunch. The session ends it. The exit status is 0 if everything
came back as the client's users expect.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient


async def expect_event(listener: EventListener, name: str, **data: object) -> None:
    event = await asyncio.wait_for(listener.get(), 20)
    assert event["event"] == name, event
    assert event.get("data", {}) == data, event


async def session(path: str) -> None:
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(path), 20)
    greeting = client.greeting
    assert greeting is not None and greeting.QMP.capabilities == ["oob"], greeting

    version = await client.execute("query-version")
    assert version["qemu"]["major"] >= 7 and version["package"].startswith("brolga "), version
    names = {command["name"] for command in await client.execute("query-commands")}
    assert {"qmp_capabilities", "query-status", "quit"} <= names, names
    events = {event["name"] for event in await client.execute("query-events")}
    assert events >= {"STOP", "RESUME", "RESET", "POWERDOWN", "SHUTDOWN", "SUSPEND", "WAKEUP"}, events
    assert (await client.execute("query-status"))["status"] == "prelaunch"

    for command, arguments, error_class in [
        ("nosuch", {}, "CommandNotFound"),
        ("memsave", {"val": 0}, "GenericError"),
        ("query-status", {"zz": "\u00e9\U0001f600"}, "GenericError"),
    ]:
        try:
            await client.execute(command, arguments)
            raise AssertionError(f"{command} succeeded")
        except ExecuteError as error:
            assert error.error_class == error_class, error

    listener = EventListener()
    with client.listen(listener):
        await client.execute("cont")
        await expect_event(listener, "RESUME")
        assert (await client.execute("query-status"))["running"]
        await client.execute("stop")
        await expect_event(listener, "STOP")
        await client.execute("system_reset")
        await expect_event(listener, "RESET", guest=False, reason="host-qmp-system-reset")
        await client.execute("system_powerdown")
        await expect_event(listener, "POWERDOWN")
        text = await client.execute("human-monitor-command", {"command-line": "info status"})
        assert text == "VM status: paused\r\n", text
        assert all("pc" in cpu for cpu in await client.execute("query-cpus"))
        await client.execute("quit")
        await expect_event(listener, "SHUTDOWN", guest=False, reason="host-qmp-quit")
    try:
        await asyncio.wait_for(client.disconnect(), 20)
    except EOFError:
        pass  # The server was faster.


asyncio.run(session(sys.argv[1]))
