"""OpenAI's parameters that are not supported, and why; a request that has one gets that line."""

from __future__ import annotations

UNSUPPORTED = {
    "audio": "models here read and write text",
    "background": "nothing is stored; keep the connection open",
    "conversation": "nothing is stored; send the messages themselves",
    "function_call": "it is tool_choice now",
    "functions": "they are tools now",
    "include": "nothing more can be included",
    "logit_bias": "it would change the distribution that answers are exact for",
    "max_tool_calls": "tools are called by the client, which can count",
    "metadata": "nothing is stored",
    "moderation": "there is none",
    "prediction": "drafts come from the bundle's own drafters and from the text",
    "previous_response_id": "nothing is stored; send the messages themselves",
    "prompt_cache_options": "cached prefixes are found by themselves",
    "prompt_cache_retention": "cached prefixes are found by themselves",
    "reasoning": "templates have arguments for it; see chat_template_kwargs",
    "reasoning_effort": "templates have arguments for it; see chat_template_kwargs",
    "suffix": "models here continue text, they do not fill gaps",
    "truncation": "a prompt that does not fit is refused",
    "verbosity": "say it in the prompt",
    "web_search_options": "the server makes no connections",
}
