"""The OpenAI-compatible server and its page: Starlette and uvicorn over one engine thread.

``app`` builds the ASGI application, ``serving`` runs it on a socket; the rest are their parts.
"""
