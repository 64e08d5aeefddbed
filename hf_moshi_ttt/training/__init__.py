"""The HF Trainer with what TTT-Moshi needs: settings, exact resumption, carried memory, FSDP2."""
