package dev.pocketspec.text

/** One message of a conversation; [role] is "system", "user" or "assistant", or what else the template knows. */
data class Message(val role: String, val content: String)

/** Renders messages as the text that a checkpoint expects around them. */
interface ChatTemplate {
    /**
     * The text of [messages] up to where the assistant begins to speak, if [addGenerationPrompt].
     *
     * [arguments] are the template's own, such as `enable_thinking`. Refused is what the template refuses, and an
     * argument that it does not use.
     */
    fun render(
        messages: List<Message>,
        addGenerationPrompt: Boolean = true,
        arguments: Map<String, Any?> = emptyMap(),
    ): String
}
