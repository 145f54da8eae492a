package dev.pocketspec.text.template

/** What is wrong with a template, or with what it is given, in a few words. */
internal open class TemplateException(message: String) : RuntimeException(message)

/** A template that takes more work than it may. */
internal class LimitException(message: String) : TemplateException(message)
