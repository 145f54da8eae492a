package dev.pocketspec.app

import android.content.Context
import android.graphics.Color
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.BackgroundColorSpan
import dev.pocketspec.chat.ShownMessage

/** Colours of the text's sources: what a drafter proposed stands on its colour, what the target added on none. */
class Sources(private val context: Context) {
    private val colors = intArrayOf(R.color.drafted_1, R.color.drafted_2, R.color.drafted_3, R.color.drafted_4)
    private val names = ArrayList<String>()

    /** [message] with its colours. */
    fun coloured(message: ShownMessage): CharSequence {
        val text = SpannableStringBuilder()
        for (piece in message.pieces) {
            val start = text.length
            text.append(piece.text)
            val color = colorOf(piece.source)
            if (color != Color.TRANSPARENT) {
                text.setSpan(BackgroundColorSpan(color), start, text.length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
            }
        }
        return text
    }

    /** The drafters that were seen, each on its colour. */
    fun legend(): CharSequence {
        val text = SpannableStringBuilder()
        for (name in names) {
            if (text.isNotEmpty()) text.append("  ")
            val start = text.length
            text.append(" $name ")
            text.setSpan(BackgroundColorSpan(colorOf(name)), start, text.length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
        }
        return text
    }

    private fun colorOf(source: String): Int {
        if (source == TARGET || source == ShownMessage.USER) return Color.TRANSPARENT
        if (source !in names) names.add(source)
        return context.getColor(colors[names.indexOf(source) % colors.size])
    }

    private companion object {
        const val TARGET = "target"
    }
}
