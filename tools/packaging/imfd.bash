# Completion of imfd for bash. The options are asked of the program, so they cannot be out of date.
_imfd()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "$(imfd --help 2>/dev/null | sed -n 's/^  \([a-z]\{1,\}\) .*/\1/p') --help --version" -- "$current"))
        return
    fi
    case $previous in
        --device) COMPREPLY=($(compgen -W "auto cpu cuda fake" -- "$current")); return ;;
        --precision) COMPREPLY=($(compgen -W "auto fp32 bf16" -- "$current")); return ;;
        --log-format) COMPREPLY=($(compgen -W "text json" -- "$current")); return ;;
        --log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$current")); return ;;
        --roofline) COMPREPLY=($(compgen -W "H100 RTX4090" -- "$current")); return ;;
        --dtype) COMPREPLY=($(compgen -W "f32 f16 bf16" -- "$current")); return ;;
    esac
    case $current in
        -*) COMPREPLY=($(compgen -W "$(imfd "$command" --help 2>/dev/null | grep -o -- '--[a-z][a-z0-9-]*' | sort -u)" -- "$current")) ;;
        *)
            COMPREPLY=($(compgen -f -- "$current"))
            if [ "$command" = synth ]; then
                COMPREPLY+=($(compgen -W "MiT_B_2 MiT_M_2 MiT_L_2 MiT_XL_2 MiT sd-vae taesd inception" -- "$current"))
            fi
            ;;
    esac
}
complete -o filenames -F _imfd imfd
