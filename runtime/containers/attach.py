"""A container's streams, through its monitor's attach socket.

The socket keeps packets apart. Each from the monitor begins with a byte that says which stream it
is of; each to it is input. What nobody reads makes the monitor, and in the end the program, wait.
"""

import errno
import os
import socket
from pathlib import Path

from shipway.runtime.errors import RuntimeFailure

# conmon's buffers: 8 KiB and the leading byte to us, 32 KiB from us.
MOST_RECEIVED = 65536
MOST_SENT = 8192
STDOUT = 2
STDERR = 3
RESIZE = 1  # conmon's word on its control pipe; it takes sizes up to 1000
MOST_CELLS = 1000


class Attachment:
    """One connection.

    Closing it, or `end_input`, ends the program's input if its specification says `stdin_once`.
    """

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        folder = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Through the open folder: the path of a unix socket ends at 108 bytes.
            self._socket.connect(f"/proc/self/fd/{folder}/attach")
        except OSError as error:
            self._socket.close()
            raise RuntimeFailure(f"the container cannot be attached to: {error}") from error
        finally:
            os.close(folder)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For poll: readable when there is output or the end, writable when `send` would take."""
        return self._socket.fileno()

    def receive(self) -> tuple[int, bytes] | None:
        """STDOUT or STDERR, and a piece of it; None at the end. Raises BlockingIOError."""
        try:
            packet = self._socket.recv(MOST_RECEIVED)
        except ConnectionResetError:
            return None
        return (packet[0], packet[1:]) if packet else None

    def send(self, data: bytes) -> int:
        """Write input; returns how many bytes were taken, at most MOST_SENT."""
        try:
            return self._socket.send(data[:MOST_SENT])
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)  # nobody will read it

    def end_input(self) -> None:
        """Say that no more input comes; output goes on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def resize(self, rows: int, columns: int) -> None:
        """Tell the container's terminal its size, in characters."""
        line = f"{RESIZE} {min(rows, MOST_CELLS)} {min(columns, MOST_CELLS)}\n"
        try:
            fd = os.open(self._bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it is ending
        try:
            os.write(fd, line.encode())
        except OSError:
            return
        finally:
            os.close(fd)

    def close(self) -> None:
        """Leave; the container goes on."""
        self._socket.close()
