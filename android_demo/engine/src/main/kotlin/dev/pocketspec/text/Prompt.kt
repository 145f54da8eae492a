package dev.pocketspec.text

/** The tokens of prompts, as `runtime/text/prompt.py` finds them. */
object Prompt {
    /**
     * The tokens of a conversation, encoded as one text up to where the assistant begins to speak.
     *
     * A template writes the begin token itself, if the model wants one: none is added, or there would be two.
     */
    fun encode(
        tokenizer: Tokenizer,
        template: ChatTemplate?,
        messages: List<Message>,
        arguments: Map<String, Any?> = emptyMap(),
    ): IntArray {
        if (template == null) {
            throw TokenizerException("this model has no chat template; write one text for it to continue")
        }
        return tokenizer.encode(template.render(messages, arguments = arguments), addSpecialTokens = false)
    }

    /** The tokens of one text: a message of the user if there is a [template], else the beginning to be continued. */
    fun encode(tokenizer: Tokenizer, template: ChatTemplate?, text: String): IntArray =
        if (template == null) tokenizer.encode(text) else encode(tokenizer, template, listOf(Message("user", text)))
}
