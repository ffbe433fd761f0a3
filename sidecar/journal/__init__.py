"""The journal: records on the volume, durable before they count as written."""
