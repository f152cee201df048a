"""Two parties: a client with the secret key, a server with the model; only bytes pass between."""

from serving.batch import Reply, WorkerError, Workers
from serving.client import Client
from serving.server import Server

__all__ = ["Client", "Reply", "Server", "WorkerError", "Workers"]
