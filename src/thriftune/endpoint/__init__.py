"""Asking any OpenAI-compatible server (vLLM, llama.cpp, TGI, OpenAI), many prompts at once and within a limit."""

from thriftune.endpoint.client import Agree, Endpoint, Estimate, Reply, Say
from thriftune.endpoint.completion import Completion
from thriftune.endpoint.connection import Request
from thriftune.endpoint.spending import Spending, Tokens

__all__ = ["Agree", "Completion", "Endpoint", "Estimate", "Reply", "Request", "Say", "Spending", "Tokens"]
