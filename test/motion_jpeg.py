"""A camera on the network for tests: motion JPEG over HTTP, on a link that can be cut."""

import contextlib
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class MotionJpeg(BaseHTTPRequestHandler):
    """Sends pictures as motion JPEG, each with its number in it, and hangs up."""

    def __init__(self, *args, pictures, **kwargs):
        self.pictures = pictures
        super().__init__(*args, **kwargs)

    def do_GET(self):
        """Answer."""
        self.send_response(200)
        self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=next')
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for numbers in self.pictures():
                self.wfile.write(b''.join(part(number) for number in numbers))

    def log_message(self, *_):
        """Say nothing."""


def part(number):
    """Make one part of the answer."""
    jpeg = cv2.imencode('.jpg', numbered(number))[1].tobytes()
    head = f'--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n'
    return head.encode() + jpeg + b'\r\n'


def numbered(number):
    """Draw a number as eight black and white stripes."""
    bits = [255 * (number >> bit & 1) for bit in range(8)]
    return np.repeat(np.repeat(np.array([bits], np.uint8), 8, axis=1), 48, axis=0)[..., None].repeat(3, axis=2)


def number_of(image):
    """Read the number that was drawn."""
    return sum(1 << bit for bit in range(8) if image[:, 8 * bit : 8 * bit + 8].mean() > 127)


@contextlib.contextmanager
def serving(pictures):
    """Serve the pictures whose numbers ``pictures()`` yields, so many at once and at its pace; give the URL."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(MotionJpeg, pictures=pictures))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}/line'
    finally:
        server.shutdown()
        server.server_close()


class Camera:
    """Takes ten pictures per second; what it takes while its link is down comes when that is up again."""

    def __init__(self):
        self.taken = 0
        self.up = threading.Event()
        self.up.set()

    def pictures(self):
        """Give the numbers of the pictures."""
        sent = 0
        while self.taken < 250:
            self.taken += 1
            if self.up.is_set():
                yield range(sent, self.taken)
                sent = self.taken
            time.sleep(0.1)
