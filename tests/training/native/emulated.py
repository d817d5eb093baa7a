"""The engine's C interface on a processor that this machine emulates: each call is a process, memory goes along."""

import ctypes
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "fedsim/training/native"
DRIVER = Path(__file__).with_name("emulated_call.cpp")

ALIGNMENT = 64
CALL = "14q"
"""``Call`` of emulated_call.cpp; the numbers below say where its fields are."""
ADDRESSES, JOB, STATUS, PROGRAM = 0, 3, 4, 5


def build_driver(compiler: Sequence[str], folder: Path) -> Path:
    """The engine as setup.py compiles it, but by another compiler, linked to what calls it."""
    build = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={folder}", f"--build-temp={folder}/objects"]
    name = shlex.join(compiler)
    chosen = {"CC": name, "CXX": name, "LDSHARED": f"{name} -shared", "LDCXXSHARED": f"{name} -shared"}
    # Flags for the interpreter's own processor have no business here: only those of setup.py are left.
    environment = {**os.environ, **chosen, "CFLAGS": "", "CXXFLAGS": "", "LDFLAGS": ""}
    subprocess.run(build, cwd=ROOT, env=environment, check=True)
    objects, driver = map(str, (folder / "objects").rglob("*.o")), folder / "emulated_call"
    link = [*compiler, "-std=c++17", "-Wall", "-Werror", "-static", "-pthread", f"-I{SOURCES}"]
    subprocess.run([*link, str(DRIVER), *objects, "-o", str(driver)], check=True)
    return driver


class Emulated:
    """Takes the place of the library that ``library.library()`` loads, and of ``library.address``.

    The latter because a C structure says where an array lies, but not how long it is.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.arrays: dict[int, NDArray[Any]] = {}
        self.programs: list[tuple[int, ...]] = []

    def address(self, array: NDArray[Any] | None) -> int | None:
        """Where an array's numbers lie; from then on a call that names the place takes them along."""
        if array is None:
            return None
        place = array.ctypes.data
        self.arrays[place] = max(array, self.arrays.get(place, array), key=lambda other: other.nbytes)
        return place

    def fedsim_variant(self, name: bytes) -> bytes | None:
        return b"baseline" if name in (b"", b"baseline") else None

    def fedsim_open(self, variant: bytes, *program: int) -> int:
        """The handle is a number; the engine is opened anew for each call."""
        self.programs.append(program)
        return len(self.programs)

    def fedsim_close(self, handle: int) -> None:
        """Nothing is open between calls."""

    def fedsim_train(self, handle: int, job: Any) -> int:
        return self._call(handle, job._obj, trains=True)

    def fedsim_evaluate(self, handle: int, job: Any) -> int:
        return self._call(handle, job._obj, trains=False)

    def _call(self, handle: int, job: ctypes.Structure, *, trains: bool) -> int:
        memory = Memory(self.arrays)
        call = memory.take(bytes(struct.calcsize(CALL)))
        for field, word in enumerate(self.programs[handle - 1]):
            is_address = field in (0, 2, 4, 6)
            memory.write(call + 8 * (PROGRAM + field), memory.place(word) if is_address else word, is_address)
        memory.write(call + 8 * JOB, memory.take_structure(job), is_address=True)
        addresses = np.array(memory.addresses, np.int64)
        struct.pack_into("3q", memory.content, 8 * ADDRESSES, memory.take(addresses.tobytes()), len(addresses), trains)
        file = self.folder / "call"
        file.write_bytes(memory.content)
        subprocess.run([*self.command, str(file)], check=True)
        after = file.read_bytes()
        memory.bring_back(after)
        return struct.unpack_from("q", after, 8 * STATUS)[0]


class Memory:
    """What a call takes along: blocks of bytes, and where in them offsets stand that are to become addresses."""

    def __init__(self, arrays: dict[int, NDArray[Any]]) -> None:
        self.arrays = arrays
        self.places: dict[int, int] = {}
        self.content = bytearray()
        self.addresses: list[int] = []

    def take(self, block: bytes) -> int:
        """Adds a block; where it begins."""
        begin = len(self.content)
        self.content += block + bytes(-len(block) % ALIGNMENT)
        return begin

    def place(self, address: int) -> int:
        """Where the array at this address begins, which is taken along the first time."""
        if address not in self.places:
            self.places[address] = self.take(self.arrays[address].tobytes())
        return self.places[address]

    def write(self, where: int, word: int, is_address: bool) -> None:
        struct.pack_into("q", self.content, where, word)
        if is_address:
            self.addresses.append(where)

    def take_structure(self, structure: ctypes.Structure) -> int:
        """Adds a structure and the arrays that it, or a structure in it, leads to."""
        begin = self.take(bytes(structure))
        self._follow(structure, begin)
        return begin

    def _follow(self, structure: ctypes.Structure, begin: int) -> None:
        for name, kind in structure._fields_:
            value, where = getattr(structure, name), begin + getattr(type(structure), name).offset
            if isinstance(value, ctypes.Structure):
                self._follow(value, where)
            elif kind is ctypes.c_void_p and value is not None:
                self.write(where, self.place(value), is_address=True)

    def bring_back(self, after: bytes) -> None:
        """Gives the arrays what the call has left in them."""
        for address, begin in self.places.items():
            array = self.arrays[address]
            if array.flags.writeable:
                ctypes.memmove(address, after[begin : begin + array.nbytes], array.nbytes)
