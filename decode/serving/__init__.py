"""A server of transcripts with the interface of OpenAI's audio transcriptions. Begin with decoder.py, which decodes the
windows of all requests together; application.py has the routes, transcriptions.py answers one request, connections.py
has the limits, server.py starts and stops it, page/ is what a browser shows."""
