package dev.pocketspec.app

import android.content.Context
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.TextView
import dev.pocketspec.chat.ShownMessage

/** The messages of the list, the growing answer last. */
class MessageAdapter(private val context: Context, private val sources: Sources) : BaseAdapter() {
    private var shown = emptyList<ShownMessage>()

    /** Shows [messages], if they are not shown already. */
    fun show(messages: List<ShownMessage>) {
        if (messages == shown) return
        shown = messages
        notifyDataSetChanged()
    }

    override fun getCount(): Int = shown.size

    override fun getItem(position: Int): ShownMessage = shown[position]

    override fun getItemId(position: Int): Long = position.toLong()

    override fun getView(position: Int, old: View?, parent: ViewGroup): View {
        val view = old ?: LayoutInflater.from(context).inflate(R.layout.message, parent, false)
        val message = shown[position]
        val isUser = message.role == ShownMessage.USER
        view.setBackgroundColor(context.getColor(if (isUser) R.color.user_message else R.color.window))
        val text = view.findViewById(R.id.text) as TextView
        text.text = sources.coloured(message)
        text.contentDescription = context.getString(if (isUser) R.string.said_by_user else R.string.said_by_model, message.text)
        val finish = view.findViewById(R.id.finish) as TextView
        val sentence = finishText(message.finish)
        finish.visibility = if (sentence == null) View.GONE else View.VISIBLE
        finish.text = sentence?.let(context::getString)
        return view
    }

    private fun finishText(finish: String?): Int? = when (finish) {
        "cancelled" -> R.string.finish_cancelled
        "interrupted" -> R.string.finish_interrupted
        "failed" -> R.string.finish_failed
        "length" -> R.string.finish_length
        "context" -> R.string.finish_context
        else -> null
    }
}
