"""The BigQuery emulator in a process of its own, which ends when its parent does.

python emulator_process.py PARENT_PID FOLDER/ADDRESS_FILE PROJECT

Run by the interpreter of the emulator's environment, never imported. Once it answers, it writes
where into the file: its REST and its gRPC port, which the system chose. In front of the
emulator stands what it lacks and the tests need: a job id is taken once, the requests for jobs
are remembered, and faults can be planted.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from emulator_loads import load_parquet_as_bigquery_does


def end_with(parent: int, folder: Path) -> None:
    """End as soon as the parent is gone, and leave nothing of what it could not clean up."""
    while os.getppid() == parent:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


class Front:
    """An ASGI application before that of the emulator."""

    def __init__(self, emulator: Any) -> None:
        self.emulator = emulator
        self.taken: set[str] = set()
        self.failed: dict[str, Any] = {}
        self.inserted: list[Any] = []
        self.faults: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.emulator(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = f"{scope['method']} {scope['path']}"
        status, headers, answer = await self.answer(request, scope, body)
        names = [header for header in headers if header[0].lower() != b"content-length"]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*names, (b"content-length", str(len(answer)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    async def answer(self, request: str, scope: Any, body: bytes) -> Any:
        if request == "POST /test/faults":
            self.faults.append(json.loads(body))
            return as_json(200, {})
        if request == "DELETE /test":
            # For the next test: its jobs may have the ids of these.
            for memory in (self.taken, self.failed, self.inserted, self.faults):
                memory.clear()
            return as_json(200, {})
        if request == "GET /test/jobs":
            return as_json(200, self.inserted)
        text = f"{request} {body.decode(errors='replace')}"
        fault = self.fault(text, "before", "after")
        if fault and fault["when"] == "before":
            return error(fault["status"], fault["reason"], fault["message"])
        if re.fullmatch(r"POST /bigquery/v2/projects/[^/]+/jobs", request):
            answer = await self.insert(scope, body, text)
        elif (job := re.fullmatch(r"GET .*/(?:jobs|queries)/([^/]+)", request)) and (
            job[1] in self.failed
        ):
            answer = as_json(200, self.failed[job[1]])
        else:
            answer = await self.pass_on(scope, body)
        if fault and fault["when"] == "after":
            return error(fault["status"], fault["reason"], fault["message"])
        return answer

    async def insert(self, scope: Any, body: bytes, text: str) -> Any:
        job = json.loads(body)
        name = job.get("jobReference", {}).get("jobId", "")
        project = scope["path"].split("/")[4]
        if job.get("configuration", {}).get("dryRun"):
            return await self.pass_on(scope, body)
        if name in self.taken:
            return error(409, "duplicate", f"Already Exists: Job {project}:US.{name}")
        self.taken.add(name)
        self.inserted.append(job)
        if fault := self.fault(text, "job"):
            result = {"reason": fault["reason"], "message": fault["message"]}
            reference = {"projectId": project, "jobId": name, "location": "US"}
            status = {"state": "DONE", "errorResult": result, "errors": [result]}
            self.failed[name] = {**job, "jobReference": reference, "status": status}
            return as_json(200, self.failed[name])
        answer = await self.pass_on(scope, body)
        if answer[0] >= 400:
            self.taken.discard(name)
        return answer

    def fault(self, text: str, *when: str) -> Any:
        for fault in self.faults:
            if fault["times"] and fault["when"] in when and re.search(fault["pattern"], text):
                fault["times"] -= 1
                return fault
        return None

    async def pass_on(self, scope: Any, body: bytes) -> Any:
        """Let the emulator answer; return status, headers and body."""
        parts: list[Any] = []
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if unread:
                return unread.pop()
            return await asyncio.Future()

        async def send(message: Any) -> None:
            parts.append(message)

        try:
            await self.emulator(scope, receive, send)
        except Exception:
            # It raises what it has answered with 500, too.
            if not parts:
                raise
        answer = b"".join(part.get("body", b"") for part in parts[1:])
        return parts[0]["status"], parts[0]["headers"], answer


def as_json(status: int, content: Any) -> Any:
    return status, [(b"content-type", b"application/json")], json.dumps(content).encode()


def error(status: int, reason: str, message: str) -> Any:
    detail = {"reason": reason, "message": message, "domain": "global"}
    return as_json(
        status,
        {"error": {"code": status, "message": message, "errors": [detail] if reason else []}},
    )


async def serve(address_file: Path, project: str) -> None:
    import bqemulator.server
    from bqemulator.config import Settings

    load_parquet_as_bigquery_does()
    create_app = bqemulator.server.create_app
    bqemulator.server.create_app = lambda context: Front(create_app(context))
    settings = Settings(rest_port=0, grpc_port=0, default_project_id=project, log_level="warning")
    server = bqemulator.server.EmulatorServer(settings)
    await server.start()
    unfinished = address_file.with_suffix(".unfinished")
    unfinished.write_text(f"{server.rest_port} {server.grpc_endpoint.rpartition(':')[2]}")
    unfinished.rename(address_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    address = Path(sys.argv[2])
    threading.Thread(target=end_with, args=(int(sys.argv[1]), address.parent), daemon=True).start()
    asyncio.run(serve(address, sys.argv[3]))
