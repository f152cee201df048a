"""Two parties: a client with the secret key, a server with the model; only bytes pass between."""

from serving.batch import Reply, WorkerError, Workers
from serving.cache import EncryptedCache
from serving.client import Client
from serving.server import Server
from serving.writer import Writer, Written
from serving.writing_server import WritingServer

__all__ = [
    "Client",
    "EncryptedCache",
    "Reply",
    "Server",
    "WorkerError",
    "Workers",
    "Writer",
    "WritingServer",
    "Written",
]
