"""Connections to tracking servers, stores and hubs."""
