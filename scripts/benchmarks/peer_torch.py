"""PyTorch on the same work, as a program: ``peer_torch.py MODE THREADS BATCH_SIZE`` prints the seconds of an epoch.

MODE is eager, compile (`torch.compile`) or ddp (THREADS processes of one thread, gradients averaged over gloo). The
network, the optimizer, the images and the order of work are the same. Images stay uint8 until a batch is taken, then
they are padded and normalised. Nothing is loaded or shuffled more often than in an epoch of this package. The optimizer
is the fastest of PyTorch's Adams here (fused).
"""

import json
import os
import sys
import time
from typing import Any

import torch
from torch import nn

from benchmarks.common import sixty_thousand

AMPLITUDE = 1.7159


class Tanh(nn.Module):  # type: ignore[misc]
    """As in LeNet-5."""

    def forward(self, x: Any) -> Any:
        return AMPLITUDE * torch.tanh(x)


def network() -> Any:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), Tanh(), nn.Linear(120, 84), Tanh(), nn.Linear(84, 10)),
    )


def epoch(mode: str, threads: int, batch_size: int, rank: int = 0) -> float:
    """Seconds of one epoch, after 30 steps that don't count."""
    world = threads if mode == "ddp" else 1
    torch.set_num_threads(1 if mode == "ddp" else threads)
    torch.manual_seed(0)
    data = sixty_thousand()
    images = torch.from_numpy(data.inputs)
    labels = torch.from_numpy(data.targets)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    if mode == "compile":
        model = torch.compile(model)
    if mode == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    share = batch_size // world

    def steps(first: int, last: int) -> None:
        for start in range(first, last, batch_size):
            rows = order[start + rank * share : min(start + (rank + 1) * share, last)]
            x = nn.functional.pad(images[rows].unsqueeze(1).float(), (2, 2, 2, 2))
            x = (x / 255 - 0.1307) / 0.3081
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), labels[rows]).backward()
            optimizer.step()

    whole = (
        len(images) - len(images) % batch_size
    )  # torch.compile and DDP do not handle the rest well. This package computes it.
    steps(0, 30 * batch_size)
    start = time.perf_counter()
    steps(0, whole)
    return (time.perf_counter() - start) * len(images) / whole


def ddp_rank(rank: int, world: int, batch_size: int, port: str) -> None:
    """One process of the group. The first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    seconds = epoch("ddp", world, batch_size, rank)
    if rank == 0:
        print(json.dumps(seconds))
    torch.distributed.barrier()  # A process whose peer is gone aborts.
    torch.distributed.destroy_process_group()


def main() -> None:
    mode = sys.argv[1]
    threads = int(sys.argv[2])
    batch_size = int(sys.argv[3])
    if mode == "ddp":
        port = str(20_000 + os.getpid() % 20_000)
        torch.multiprocessing.spawn(ddp_rank, (threads, batch_size, port), nprocs=threads)
    else:
        print(json.dumps(epoch(mode, threads, batch_size)))


if __name__ == "__main__":
    main()
