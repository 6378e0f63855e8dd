"""What control groups leave a process, by copies of the files in which Linux says so."""

import math
from pathlib import Path

import pytest

from parallel_lenet.limits import available_memory, cpu_quota

MB = 2**20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MACHINE = {
    "proc/meminfo": "MemTotal:       32768 kB\nMemAvailable:   20480 kB\nSwapFree:       4096 kB\nHugePages_Total: 0\n"
}
V2 = {"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}
BOTH = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/job/a:b\n2:cpu,cpuacct:/job/a:b\n0::/service\n",
    "sys/fs/cgroup/unified/cgroup.controllers": "\n",
}


def test_without_limits_or_groups_all_is_left(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == available_memory(tmp_path) == math.inf
    root = write(
        tmp_path, {**V2, **MACHINE, "sys/fs/cgroup/job/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}
    )
    assert cpu_quota(root) == math.inf
    assert available_memory(root) == 24 * MB


@pytest.mark.parametrize("folder", ["", "job/", "job/step/"])
def test_every_group_of_version_2_up_to_the_root_limits(folder: str, tmp_path: Path) -> None:
    group = f"sys/fs/cgroup/{folder}"
    other = {"sys/fs/cgroup/job/other/cpu.max": "100 100000", "sys/fs/cgroup/job/other/memory.max": "1"}
    root = write(tmp_path, {**V2, **MACHINE, **other, f"{group}cpu.max": "150000 100000\n"})
    assert cpu_quota(root) == 1.5
    write(root, {f"{group}memory.max": f"{8 * MB}\n", f"{group}memory.current": f"{5 * MB}\n"})
    assert available_memory(root) == (8 - 5 + 4) * MB
    write(root, {f"{group}memory.stat": f"anon 7\ninactive_file {MB}\nactive_file {MB}\n"})
    write(root, {f"{group}memory.swap.max": f"{MB}\n", f"{group}memory.swap.current": "0\n"})
    assert available_memory(root) == (8 - 5 + 2 + 1) * MB
    write(root, {f"{group}memory.swap.max": "0\n", f"{group}memory.current": f"{11 * MB}\n"})
    assert available_memory(root) == 0


@pytest.mark.parametrize(
    ("outer", "middle", "inner", "quota"),
    [
        ("max 100000", "150000 100000", "400000 100000", 1.5),  # The lower limit is above.
        ("800000 100000", "max 100000", "50000 100000", 0.5),
        ("250000 100000", "max 100000", "max 100000", 2.5),
        ("max 100000", "max", "30000 10000", 3.0),  # Another period, and a file cut short.
        ("100000 0", "many 100000", "-1 100000", math.inf),  # Nothing that Linux writes: no limit, and no error.
    ],
)
def test_the_lowest_quota_of_nested_groups_counts(
    outer: str, middle: str, inner: str, quota: float, tmp_path: Path
) -> None:
    folders = {"": outer, "job/": middle, "job/step/": inner}
    files = {f"sys/fs/cgroup/{folder}cpu.max": f"{text}\n" for folder, text in folders.items()}
    assert cpu_quota(write(tmp_path, {**V2, **files})) == quota


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("150000", "100000", 1.5), ("-1", "100000", math.inf), ("100000", "0", math.inf), ("200000", "", math.inf)],
)
def test_quotas_of_both_versions_may_hold_at_once(quota: str, period: str, cores: float, tmp_path: Path) -> None:
    group = "sys/fs/cgroup/cpu,cpuacct/job"
    root = write(tmp_path, {**BOTH, f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": period})
    assert cpu_quota(root) == cores
    write(root, {"sys/fs/cgroup/unified/service/cpu.max": "125000 100000"})
    assert cpu_quota(root) == min(cores, 1.25)


@pytest.mark.parametrize("folder", ["", "/job", "/job/a:b"])
def test_every_group_of_version_1_up_to_the_root_limits(folder: str, tmp_path: Path) -> None:
    cpu, memory = f"sys/fs/cgroup/cpu,cpuacct{folder}", f"sys/fs/cgroup/memory{folder}"
    root = write(tmp_path, {**BOTH, **MACHINE})
    write(root, {f"{cpu}/cpu.cfs_quota_us": "-1\n", f"{cpu}/cpu.cfs_period_us": "100000\n"})
    assert cpu_quota(root) == math.inf
    write(root, {f"{cpu}/cpu.cfs_quota_us": "25000\n"})
    assert cpu_quota(root) == 0.25
    write(root, {f"{memory}/memory.limit_in_bytes": f"{8 * MB}\n", f"{memory}/memory.usage_in_bytes": f"{5 * MB}\n"})
    assert available_memory(root) == (8 - 5 + 4) * MB
    write(
        root,
        {f"{memory}/memory.memsw.limit_in_bytes": f"{8 * MB}", f"{memory}/memory.memsw.usage_in_bytes": f"{5 * MB}"},
    )
    write(root, {f"{memory}/memory.stat": f"inactive_file 0\ntotal_inactive_file {MB}\ntotal_active_file 0\n"})
    assert available_memory(root) == (8 - 5 + 1) * MB


def test_in_a_container_that_sees_the_path_of_its_host_its_own_group_is_mounted(tmp_path: Path) -> None:
    for line in ("4:cpu:/docker/0123", "4:cpu:/../.."):
        root = write(tmp_path, {"proc/self/cgroup": line, "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
        assert cpu_quota(write(root, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000"})) == 2


def test_files_that_cannot_be_understood_limit_nothing(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    root = write(tmp_path, {**V2, "proc/meminfo": "MemAvailable: many kB", "sys/fs/cgroup/job/cpu.max": "\n"})
    assert cpu_quota(root) == available_memory(root) == math.inf
