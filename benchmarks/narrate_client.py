"""Answers per second from a server that takes 200 ms each, compared with the bare `openai` client.

The server runs in its own process with one fixed reply. Measures the bare client, with threads or an event
loop, whichever is faster; our client; and the whole narrate stage, with its journal, parser and table.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import openai

from avion_core.config import NarrateSettings, RephraserSettings
from avion_core.data.clips import write_clips
from avion_core.narrate.client import ChatClient
from avion_core.narrate.exchange import Request
from avion_core.narrate.prompts import rephrase_messages, reply_schema
from avion_core.narrate.rephrase import rephrase_shard
from benchmarks import write_result

REQUESTS, PARALLEL, DELAY_SECONDS, ROUNDS = 2000, 50, 0.2, 3
SENTENCES = ["#C C picks up the cup", "#C C lifts a cup", "#C C grabs the mug", "take the cup"]


def serve(ready: Connection, delay_seconds: float) -> None:
    """Answer every request with the same completion after a delay."""
    message = {"role": "assistant", "content": json.dumps({"1": SENTENCES})}
    usage = {"prompt_tokens": 180, "completion_tokens": 40, "total_tokens": 220}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    body = json.dumps(
        reply | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    ).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                await reader.readexactly(int(length.split(b":")[1]))
                await asyncio.sleep(delay_seconds)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class Uncounted:
    """Books that record nothing."""

    def begin(self, request: Request, token_limit: int) -> int:
        """Always the same try."""
        return 0

    def cancel(self, try_number: int) -> None:
        """Nothing."""


class Work:
    """The same requests through each client."""

    def __init__(self, port: int, folder: Path) -> None:
        self.settings = NarrateSettings.model_validate(
            {
                "provider": "language_model",
                "language_model": {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "parallel_requests": PARALLEL,
                    "max_usd": 1000,
                },
            }
        )
        self.texts = [f"#C C takes cup {number} from the shelf" for number in range(REQUESTS)]
        self.model = self.settings.of(RephraserSettings)
        rephrase = self.settings.rephrase
        self.requests = [
            Request(
                number,
                (text,),
                tuple(rephrase_messages([text], instruction=rephrase.instruction, count=4)),
                reply_schema(1, count=4),
            )
            for number, text in enumerate(self.texts)
        ]
        self.folder, self.rounds = folder, 0
        rows = [
            {
                "video_id": "v",
                "start_s": float(place),
                "end_s": place + 1.0,
                "texts": [text],
                "source": "human",
            }
            for place, text in enumerate(self.texts)
        ]
        write_clips(folder / "clips.arrow", rows)

    def _arguments(self, request: Request) -> dict[str, Any]:
        return {
            "model": self.model.model,
            "messages": list(request.messages),
            "max_tokens": 200,
        }

    def bare_threads(self) -> None:
        """`openai.OpenAI` in as many threads as there are requests in flight."""
        client: Any = openai.OpenAI(base_url=self.model.base_url, max_retries=0)
        with client, ThreadPoolExecutor(PARALLEL) as pool:
            ask = client.chat.completions.create
            for reply in pool.map(lambda request: ask(**self._arguments(request)), self.requests):
                assert reply.choices[0].message.content

    def bare_loop(self) -> None:
        """`openai.AsyncOpenAI` with as many workers as there are requests in flight."""

        async def main() -> None:
            left = deque(self.requests)
            async with openai.AsyncOpenAI(base_url=self.model.base_url, max_retries=0) as client:
                ask: Any = client.chat.completions.create

                async def worker() -> None:
                    while left:
                        reply = await ask(**self._arguments(left.popleft()))
                        assert reply.choices[0].message.content

                await asyncio.gather(*(worker() for _ in range(PARALLEL)))

        asyncio.run(main())

    def client(self) -> None:
        """Our client alone."""
        found = sum(1 for _ in ChatClient(self.model).answers(deque(self.requests), Uncounted()))
        assert found == REQUESTS

    def stage(self) -> None:
        """The narrate stage of one shard."""
        self.rounds += 1
        home = self.folder / str(self.rounds)
        rephrase_shard(
            self.folder / "clips.arrow",
            settings=self.settings,
            shard="1-of-1",
            class_lists=[],
            journal_dir=home / "journal",
            out=home / "1-of-1.arrow",
        )


def main() -> None:
    os.environ["OPENAI_API_KEY"] = "none"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, DELAY_SECONDS), daemon=True
    )
    server.start()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="avion-narrate-") as folder:
        work = Work(here.recv(), Path(folder))
        ways: dict[str, Callable[[], None]] = {
            "bare_threads": work.bare_threads,
            "bare_loop": work.bare_loop,
            "client": work.client,
            "stage": work.stage,
        }
        for _ in range(ROUNDS):  # in turn, so that a slow minute of the machine affects all
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                rates.setdefault(name, []).append(REQUESTS / (time.perf_counter() - start))
    server.kill()
    figures = {f"{name}_per_second": statistics.median(found) for name, found in rates.items()}
    bare = max(figures["bare_threads_per_second"], figures["bare_loop_per_second"])
    figures |= {"requests": REQUESTS, "parallel_requests": PARALLEL, "server_seconds": DELAY_SECONDS}
    ratios = {
        "client_to_bare": figures["client_per_second"] / bare,
        "stage_to_bare": figures["stage_per_second"] / bare,
    }
    print({name: round(value, 3) for name, value in (figures | ratios).items()})
    write_result("narrate_client", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
