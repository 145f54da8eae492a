"""One fixture of hostile inputs, equal bits from every instruction set: the operators' own test program.

Instruction sets that this processor has run natively. Those for AVX512-VNNI and AVX-VNNI run on any processor with
AVX2 as well, with the instructions it lacks replaced by AVX2 or C++: that proves their logic, and neither what a
compiler makes of the intrinsics nor the line of assembler in isa_avx512vnni.cpp. The slow tests run what was compiled:
for ARM under qemu, for AVX512-VNNI on a processor emulated by Bochs. AVX-VNNI's own instruction runs only where a
processor has it; on such a processor this program runs it natively, like all the others.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.kernels.build import INSTRUCTION_SETS, SOURCES, build, find_compiler

CPUINFO = Path("/proc/cpuinfo")
NATIVE_ALONE = "-DPOCKETSPEC_NATIVE_ALONE"
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
EMULATED = ("avxvnni", "avx512vnni")
BARE_MACHINE = Path(__file__).with_name("bare_machine")
# Without sound, which the library for it may not survive, and with a screen that nobody needs to look at.
MACHINE = """
megs: 512
cpu: model=tigerlake, count=1, ips=100000000
ata0-master: type=cdrom, path={disk}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/serial.txt
display_library: rfb, options="timeout=0"
sound: driver=dummy, waveoutdrv=dummy, waveout=none, waveindrv=dummy, wavein=none, midioutdrv=dummy, midiout=none
plugin_ctrl: speaker=0
panic: action=fatal
clock: sync=none
log: {folder}/bochs.txt
"""
# Compiles as it is told, and keeps every object by the name of its source.
KEEPER = """
import shutil, subprocess, sys
from pathlib import Path
compiler, kept, *words = sys.argv[1:]
code = subprocess.run([compiler, *words]).returncode
if code == 0 and "-c" in words:
    shutil.copy(words[-1], Path(kept, Path(words[-3]).stem + ".o"))
sys.exit(code)
"""


@dataclass(frozen=True)
class Made:
    """The test program, the objects that it consists of, and the instruction sets in it."""

    program: Path
    objects: Path
    sets: tuple[str, ...]


def make(folder: Path, compiler: str, *flags: str, sources: Path = SOURCES) -> Made:
    keeper, objects = folder / "keeper.py", folder / "objects"
    keeper.write_text(KEEPER)
    objects.mkdir()
    command = shlex.join([sys.executable, str(keeper), compiler, str(objects)])
    tests = sorted((sources / "testing").glob("*.cpp"))
    if NATIVE_ALONE in flags:
        tests = [file for file in tests if not file.stem.startswith("emulated_")]
    sets = build(folder / "program", compiler=command, flags=(*WARNINGS, *flags), program=tests, sources=sources)
    return Made(folder / "program", objects, sets)


def run(made: Made, *emulator: str) -> dict[str, dict[str, str]]:
    """Checksums by how an instruction set ran, native or emulated, and by its name."""
    done = subprocess.run([*emulator, made.program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, dict[str, str]] = {"native": {}, "emulated": {}}
    for line in done.stdout.splitlines():
        name, how, checksum = line.split()
        report[how][name] = checksum
    return report


def has_natively(*names: str) -> bool:
    """Whether this processor has all of the instruction sets ``names``, as far as the system tells."""
    has = set(CPUINFO.read_text().split()) if CPUINFO.is_file() else set()
    return all(has.issuperset(isa.features) for isa in INSTRUCTION_SETS if isa.name in names)


@pytest.fixture(scope="module")
def made(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of this processor; what it has is not emulated. -O1: half the time to compile, and more than the time to run;
    with less, what is inline stays a function, which an object must not offer."""
    flags = ("-O1", NATIVE_ALONE) if has_natively(*EMULATED) else ("-O1",)
    return make(tmp_path_factory.mktemp("program"), compiler, *flags)


@pytest.fixture(scope="module")
def report(made: Made) -> dict[str, dict[str, str]]:
    return run(made)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if not shutil.which(ARM_COMPILER) or not shutil.which(ARM_EMULATOR):
        pytest.skip(f"needs {ARM_COMPILER} and {ARM_EMULATOR}")
    return make(tmp_path_factory.mktemp("arm"), ARM_COMPILER, "-O1", "-static")


def test_all_that_this_processor_has_gives_the_same_bits(made: Made, report: dict[str, dict[str, str]]) -> None:
    native = report["native"]
    assert len(set(native.values())) == 1
    if CPUINFO.is_file():
        has = set(CPUINFO.read_text().split())
        usable = {isa.name for isa in INSTRUCTION_SETS if isa.name in made.sets and has.issuperset(isa.features)}
        assert set(native) == usable


def test_the_logic_for_avx512vnni_and_avxvnni_gives_the_same_bits_emulated(report: dict[str, dict[str, str]]) -> None:
    if set(EMULATED) <= set(report["native"]):
        pytest.skip("they ran natively; the slow tests emulate them as well")
    check_emulated(report)


@pytest.mark.slow
def test_the_emulation_gives_the_same_bits_where_they_run_natively(compiler: str, tmp_path: Path) -> None:
    check_emulated(run(make(tmp_path, compiler, "-O1")))


def check_emulated(report: dict[str, dict[str, str]]) -> None:
    if "avx2" not in report["native"]:
        pytest.skip("the emulation is made of AVX2")
    assert report["emulated"] == dict.fromkeys(EMULATED, report["native"]["portable"])


def check_symbols(objects: Path) -> None:
    """A linker keeps one of several equal inline functions: it must never be one that not every processor can run."""
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    kept = sorted(objects.glob("isa_*.o"))
    assert len(kept) > 1
    for file in kept:
        listed = subprocess.run(["nm", "-g", "-P", "--defined-only", file], capture_output=True, text=True, check=True)
        names = [line.split()[0] for line in listed.stdout.splitlines()]
        assert len(names) == 1, f"{file.name} defines {names}"
        assert "pocketspec" in names[0]


def test_the_object_of_an_instruction_set_offers_its_table_and_no_code(made: Made) -> None:
    check_symbols(made.objects)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "sets"),
    [
        ("max", {"neon_i8mm", "neon_dot", "portable"}),
        ("cortex-a76", {"neon_dot", "portable"}),
        ("cortex-a57", {"portable"}),
    ],
)
def test_arm_gives_the_same_bits_as_this_processor(
    arm: Made, report: dict[str, dict[str, str]], processor: str, sets: set[str]
) -> None:
    assert set(arm.sets) == {"neon_i8mm", "neon_dot", "portable"}
    native = run(arm, ARM_EMULATOR, "-cpu", processor)["native"]
    assert native == dict.fromkeys(sets, report["native"]["portable"])


@pytest.mark.slow
def test_the_objects_for_arm_offer_their_tables_and_no_code(arm: Made) -> None:
    check_symbols(arm.objects)


def make_disk(folder: Path, program: Path) -> Path:
    """A CD that boots into the program, without an operating system."""
    kernel, disk = folder / "disk" / "boot" / "kernel", folder / "boot.iso"
    (kernel.parent / "grub").mkdir(parents=True)
    (kernel.parent / "grub" / "grub.cfg").write_text("set timeout=0\nmultiboot /boot/kernel\nboot\n")
    flags = ("-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-pic", "-fno-stack-protector")
    source = BARE_MACHINE
    commands: list[list[str | Path]] = [
        ["gcc", f'-DPROGRAM="{program}"', "-c", source / "start.S", "-o", folder / "start.o"],
        ["gcc", *flags, "-mgeneral-regs-only", "-c", source / "machine.c", "-o", folder / "machine.o"],
        ["ld", "-T", source / "machine.ld", folder / "start.o", folder / "machine.o", "-o", folder / "kernel"],
        ["objcopy", "-O", "elf32-i386", folder / "kernel", kernel],
        ["grub-mkrescue", "-o", disk, folder / "disk"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return disk


@pytest.mark.slow
def test_avx512vnni_gives_the_same_bits_on_an_emulated_processor(
    compiler: str, report: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """The real instructions, the line of assembler too, as Bochs understands them: on its Tiger Lake."""
    missing = [tool for tool in ("bochs", "gcc", "ld", "objcopy", "grub-mkrescue", "xorriso") if not shutil.which(tool)]
    if missing or find_compiler().machine != "x86_64":
        pytest.skip(f"needs an x86-64 Linux with {', '.join(missing)}")
    made = make(tmp_path, compiler, "-O1", "-static", "-no-pie")
    machine = MACHINE.format(disk=make_disk(tmp_path, made.program), folder=tmp_path)
    (tmp_path / "machine.txt").write_text(machine)
    # A Bochs with a debugger waits to be told to continue.
    done = subprocess.run(
        ["bochs", "-q", "-f", tmp_path / "machine.txt"], input="c\n", capture_output=True, text=True, timeout=1800
    )
    serial = tmp_path / "serial.txt"
    if not serial.is_file():
        pytest.skip(f"this Bochs does not start: {done.stdout[-300:]}")
    lines = serial.read_text().splitlines()
    assert lines[-1] == "exit 0", lines
    native = {name: checksum for name, how, checksum in map(str.split, lines[:-1]) if how == "native"}
    assert native == dict.fromkeys(("portable", "avx2", "avx512vnni"), report["native"]["portable"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        (
            "isa_portable.cpp",
            "total += code_of(panel, column, k) * activation",
            "total += (code_of(panel, column, k) | 1) * activation",
            "multiply",
        ),
        ("lanes_portable.h", "a.v[i] += a.v[i + step]", "a.v[i] = a.v[i + step] + a.v[i] * 1.0000001f", "inverse_rms"),
        ("ranges.h", "(start + i) % count_", "start", "ranges"),
    ],
)
def test_a_wrong_bit_is_told(compiler: str, tmp_path: Path, file: str, right: str, wrong: str, told: str) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "native")
    text = (sources / file).read_text()
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong))
    broken = make(tmp_path, compiler, "-O1", sources=sources)
    if told != "ranges" and broken.sets == ("portable",):
        pytest.skip("there is nothing to compare with")
    done = subprocess.run([broken.program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert told in done.stdout
