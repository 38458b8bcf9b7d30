"""Manages a running qctx with QEMU's own client library; every step that goes wrong ends the script with a traceback.

Usage: qemu_qmp.py SOCKET [machine]. The qctx serves a disk `disk0` on a context `ctx1` that is written to all the time, and has
a node `spare` for another; with `machine`, it is a machine that waits for `cont`. Prints one line per step.
"""

import asyncio
import os
import sys

from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol


async def refused(client, command, error_class, desc, **arguments):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        assert error.error.error.class_ == error_class, error.error
        assert str(error) == desc, str(error)
    else:
        raise AssertionError(f"{command} {arguments} was not refused")


async def written(client):
    """The number of writes that disk0 has finished."""
    return await client.execute("qom-get", {"path": "/machine/peripheral/disk0", "property": "writes"})


async def under_load(client, step):
    """Takes a step, and makes sure that I/O went on from its beginning to its end and beyond."""
    for _ in range(2):
        before = await written(client)
        while await written(client) == before:
            pass
        if step is not None:
            await step(client)
            step = None


async def names(client, path):
    return {item["name"] for item in await client.execute("qom-list", {"path": path})}


async def introspect(client):
    assert client.greeting.QMP.capabilities == []
    version = await client.execute("query-version")
    assert set(version["qemu"]) == {"major", "minor", "micro"}
    commands = {item["name"] for item in await client.execute("query-commands")}
    assert {"qom-list", "qom-get", "qom-set", "object-add", "device_del", "quit"} <= commands
    types = await client.execute("qom-list-types", {"implements": "qcontext"})
    assert types == [{"name": "qcontext", "parent": "object"}]
    models = await client.execute("qom-list-types", {"implements": "device"})
    assert models == [{"name": "virtio-blk", "parent": "device"}]
    print("introspected")


async def read_and_change(client):
    assert {"type", "ctx1", "qcontext-main"} <= await names(client, "/objects")
    assert {"type", "id", "threaded", "thread_id"} <= await names(client, "/objects/ctx1")
    thread = await client.execute("qom-get", {"path": "/objects/ctx1", "property": "thread_id"})
    iothreads = await client.execute("query-iothreads")
    assert [(item["id"], item["thread-id"]) for item in iothreads] == [("ctx1", thread)]
    place = {"path": "/objects/ctx1", "property": "poll-max-ns"}
    assert await client.execute("qom-get", place) == 32768
    assert await client.execute("qom-set", {**place, "value": 20000}) == {}
    assert await client.execute("qom-get", place) == 20000
    await refused(
        client, "qom-set", "GenericError", "Property 'qcontext.threaded' is not writable",
        path="/objects/ctx1", property="threaded", value=False,
    )
    await refused(
        client, "qom-get", "DeviceNotFound", "Device '/objects/nosuch' not found",
        path="/objects/nosuch", property="type",
    )
    print("read and changed")


async def add_and_delete(client):
    await refused(
        client, "object-del", "GenericError", "object 'ctx1' is in use by device 'disk0', can not be deleted",
        id="ctx1",
    )
    for round_number in range(20):
        name = f"extra{round_number}"
        await client.execute("object-add", {"qom-type": "qcontext", "id": name, "threaded": True})
        thread = await client.execute("qom-get", {"path": f"/objects/{name}", "property": "thread_id"})
        assert thread > 0
        await refused(
            client, "object-add", "GenericError",
            f"attempt to add duplicate property '{name}' to object (type 'container')",
            **{"qom-type": "qcontext", "id": name},
        )
        await client.execute("object-del", {"id": name})
        assert name not in await names(client, "/objects")
    await refused(client, "object-del", "GenericError", "object 'extra0' not found", id="extra0")
    print("added and deleted")


async def plug_and_unplug(client):
    """A disk on a fresh context, again and again."""
    with client.listener("DEVICE_DELETED") as deleted:
        for _ in range(10):
            await client.execute("object-add", {"qom-type": "qcontext", "id": "fresh", "threaded": True})
            await client.execute("device_add", {
                "driver": "virtio-blk", "id": "disk1", "drive": "spare", "x-data-plane": True, "context": "fresh",
                "vhost-user": "disk1.sock", "num-queues": 2,
            })
            place = {"path": "/machine/peripheral/disk1"}
            assert await client.execute("qom-get", {**place, "property": "context"}) == "fresh"
            assert await client.execute("qom-get", {**place, "property": "num-queues"}) == 2
            assert os.path.exists("disk1.sock")
            await refused(
                client, "object-del", "GenericError",
                "object 'fresh' is in use by device 'disk1', can not be deleted", id="fresh",
            )
            await client.execute("device_del", {"id": "disk1"})
            event = await deleted.get()
            assert event["data"] == {"device": "disk1", "path": "/machine/peripheral/disk1"}, event
            assert not os.path.exists("disk1.sock")
            await refused(client, "device_del", "DeviceNotFound", "Device 'disk1' not found", id="disk1")
            await client.execute("object-del", {"id": "fresh"})
    print("plugged and unplugged")


async def ask_at_once(socket):
    clients = [QMPClient(f"client{number}") for number in range(8)]
    await asyncio.gather(*(client.connect(socket) for client in clients))
    arguments = {"path": "/objects/ctx1", "property": "id"}
    requests = [client.execute("qom-get", arguments) for client in clients for _ in range(50)]
    assert set(await asyncio.gather(*requests)) == {"ctx1"}
    await asyncio.gather(*(client.disconnect() for client in clients))
    print("asked by 8 clients at once")


def use_legacy_interface(socket):
    monitor = QEMUMonitorProtocol(socket)
    monitor.connect(negotiate=True)
    assert monitor.cmd("qom-get", path="/objects/ctx1", property="threaded") is True
    monitor.close()
    print("asked by the legacy interface")


async def status(client):
    answer = await client.execute("query-status")
    assert set(answer) == {"status", "running"}, answer
    assert answer["running"] == (answer["status"] == "running"), answer
    return answer["status"]


async def direct(client):
    """A machine that has not begun; at the end it runs."""
    orders = {"stop", "cont", "query-status", "query-cpus-fast", "system_reset", "system_powerdown", "quit"}
    assert orders <= {item["name"] for item in await client.execute("query-commands")}
    assert await status(client) == "prelaunch"
    with client.listener(("STOP", "RESUME", "RESET")) as heard:
        await client.execute("cont")
        for _ in range(20):
            assert await status(client) == "running"
            await client.execute("stop")
            assert await status(client) == "paused"
            await client.execute("cont")
        await client.execute("system_reset")
        events = [(await heard.get())["event"] for _ in range(42)]
    assert events == ["RESUME"] + ["STOP", "RESUME"] * 20 + ["RESET"], events
    for number, cpu in enumerate(await client.execute("query-cpus-fast")):
        assert (cpu["cpu-index"], cpu["qom-path"]) == (number, f"/machine/cpu/{number}"), cpu
        place = {"path": cpu["qom-path"], "property": "thread-id"}
        assert await client.execute("qom-get", place) == cpu["thread-id"]
    assert await status(client) == "running"
    print("directed")


async def direct_machine(socket):
    client = QMPClient("test")
    await client.connect(socket)
    await direct(client)
    with client.listener("SHUTDOWN") as heard:
        await client.execute("quit")
        event = await heard.get()
    assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}, event


async def main(socket):
    client = QMPClient("test")
    await client.connect(socket)
    for step in (introspect, read_and_change, add_and_delete, plug_and_unplug):
        await under_load(client, step)
    await client.disconnect()
    await ask_at_once(socket)


if __name__ == "__main__":
    if sys.argv[2:] == ["machine"]:
        asyncio.run(direct_machine(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
        use_legacy_interface(sys.argv[1])
    print("done")
