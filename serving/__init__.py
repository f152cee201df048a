"""Two parties: a client with the secret key, a server with the model; only bytes pass between."""

from torusformer.serving.batch import Reply, WorkerError, Workers
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.client import Client
from torusformer.serving.lengths import LengthsClient, LengthsServer
from torusformer.serving.server import Server
from torusformer.serving.writer import Writer, Written
from torusformer.serving.writing_server import WritingServer

__all__ = [
    "Client",
    "EncryptedCache",
    "LengthsClient",
    "LengthsServer",
    "Reply",
    "Server",
    "WorkerError",
    "Workers",
    "Writer",
    "WritingServer",
    "Written",
]
