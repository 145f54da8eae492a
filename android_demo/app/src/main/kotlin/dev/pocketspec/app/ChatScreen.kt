package dev.pocketspec.app

import android.app.Activity
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ImageButton
import android.widget.ListView
import android.widget.ProgressBar
import android.widget.SeekBar
import android.widget.TextView
import dev.pocketspec.chat.ChatPresenter
import dev.pocketspec.chat.ChatState
import dev.pocketspec.chat.Phase

/** The views of the screen, and which of the presenter's actions they call. */
class ChatScreen(activity: Activity, private val presenter: ChatPresenter, budget: Long, showMenu: () -> Unit) {
    private val texts = Texts(activity)
    private val sources = Sources(activity)
    private val adapter = MessageAdapter(activity, sources)
    private val mostBudget = 4 * budget
    private val status = activity.findViewById(R.id.status) as TextView
    private val progress = activity.findViewById(R.id.progress) as ProgressBar
    private val errorBar: View = activity.findViewById(R.id.error_bar)
    private val error = activity.findViewById(R.id.error) as TextView
    private val retry = activity.findViewById(R.id.retry) as Button
    private val statistics = activity.findViewById(R.id.statistics) as TextView
    private val budgetText = activity.findViewById(R.id.budget_text) as TextView
    private val slider = activity.findViewById(R.id.budget) as SeekBar
    private val input = activity.findViewById(R.id.input) as EditText
    private val send = activity.findViewById(R.id.send) as Button

    init {
        (activity.findViewById(R.id.messages) as ListView).adapter = adapter
        (activity.findViewById(R.id.more) as ImageButton).setOnClickListener { showMenu() }
        (activity.findViewById(R.id.dismiss) as Button).setOnClickListener { presenter.dismissError() }
        retry.setOnClickListener { presenter.retry() }
        send.setOnClickListener { sendOrStop() }
        slider.setOnSeekBarChangeListener(SliderListener())
    }

    /** Shows [state]. */
    fun show(state: ChatState) {
        change(status, texts.status(state))
        change(statistics, texts.statistics(state))
        adapter.show(state.messages + listOfNotNull(state.streaming?.takeIf { it.pieces.isNotEmpty() }))
        showProgress(state)
        showError(state)
        showInput(state)
        showBudget(state)
    }

    /** The colours of the drafters that were seen. */
    fun legend(): CharSequence = sources.legend()

    private fun sendOrStop() {
        if (presenter.state.isBusy) return presenter.stop()
        if (!presenter.state.canSend) return
        presenter.send(input.text.toString())
        input.setText("")
    }

    private fun showProgress(state: ChatState) {
        val shown = state.progress
        progress.visibility = if (state.phase == Phase.IMPORTING || state.phase == Phase.OPENING) View.VISIBLE else View.GONE
        progress.isIndeterminate = shown == null || shown.total <= 0
        if (shown != null && shown.total > 0) progress.progress = (progress.max * shown.done / shown.total).toInt()
    }

    private fun showError(state: ChatState) {
        errorBar.visibility = if (state.error == null) View.GONE else View.VISIBLE
        retry.visibility = if (state.canRetry) View.VISIBLE else View.GONE
        change(error, state.error.orEmpty())
    }

    private fun showInput(state: ChatState) {
        send.setText(if (state.isBusy) R.string.stop else R.string.send)
        send.isEnabled = state.isBusy || state.canSend
    }

    private fun showBudget(state: ChatState) {
        change(budgetText, texts.budget(state))
        if (!slider.isPressed) slider.progress = scale(state).place(state.budgetBytes)
    }

    /** From the smallest plan, or what is usual for small models, to well above what is free now. */
    private fun scale(state: ChatState): BudgetScale {
        val low = state.plan?.smallestBytes ?: LOWEST
        return BudgetScale(low, maxOf(mostBudget, state.budgetBytes, 2 * low))
    }

    /** Only a text that is another: a screen reader speaks every change. */
    private fun change(view: TextView, text: String) {
        if (view.text.toString() != text) view.text = text
    }

    private inner class SliderListener : SeekBar.OnSeekBarChangeListener {
        private var chosen = 0L

        override fun onProgressChanged(bar: SeekBar, place: Int, byUser: Boolean) {
            if (!byUser) return
            chosen = scale(presenter.state).bytes(place)
            change(budgetText, texts.budget(presenter.state.copy(budgetBytes = chosen)))
            if (!bar.isPressed) presenter.setBudget(chosen) // by keys or a screen reader
        }

        override fun onStartTrackingTouch(bar: SeekBar) = Unit

        override fun onStopTrackingTouch(bar: SeekBar) {
            if (chosen > 0) presenter.setBudget(chosen)
        }
    }

    private companion object {
        const val LOWEST = 16L shl 20
    }
}
