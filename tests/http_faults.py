"""Answers of the scripted server that no HTTP server should give."""

import socket
import struct


def hang_up(handler):
    """Close the connection with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def raw(status, data, length=None, **headers):
    """An answer of exactly these bytes."""

    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": length or len(data), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def half(handler):
    raw(200, b'{"choices": [', length=1000)(handler)
    hang_up(handler)
